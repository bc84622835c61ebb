"""seccomp: the system calls that a program may make; all others fail with EPERM.

The list names what is allowed, so that new calls of newer kernels are refused. Even without namespaces it prevents new
processes, signals to other processes, sockets, tracing, keys, mounts, memory outside of the address space limit,
changes of a file's mode, times or attributes (which Landlock allows for files of the same user), and disk blocks beyond
the end of a file (fallocate), which no limit counts.
"""

import errno
import socket
import tempfile

_ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek close close_range
    open openat openat2 creat dup dup2 dup3 pipe pipe2 sendfile copy_file_range fadvise64 readahead
    ftruncate truncate fsync fdatasync sync_file_range flock
    stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getcwd
    getdents getdents64 chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
    link linkat symlink symlinkat umask
    mmap munmap mremap mprotect madvise msync mincore brk mlock munlock membarrier
    futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list get_robust_list set_tid_address rseq
    exit exit_group wait4 waitid restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
    rt_sigsuspend rt_sigtimedwait sigaltstack pause alarm setitimer getitimer
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    eventfd eventfd2 recvfrom sendto recvmsg sendmsg shutdown getsockname getpeername getsockopt
    getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid
    getpriority sched_getaffinity sched_yield sched_getparam sched_getscheduler sched_get_priority_max
    sched_get_priority_min getrlimit getrusage getcpu times sysinfo uname capget
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrandom
    arch_prctl riscv_flush_icache
""".split()

_CLONE_THREAD = 0x10000
_PR_SET_NAME = 15
# Without F_SETOWN, FIOSETOWN and FIOASYNC, which send signals to any process.
_FCNTL = {"F_DUPFD": 0, "F_GETFD": 1, "F_SETFD": 2, "F_GETFL": 3, "F_SETFL": 4, "F_GETLK": 5, "F_SETLK": 6,
          "F_SETLKW": 7, "F_DUPFD_CLOEXEC": 1030, "F_GETPIPE_SZ": 1032}  # fmt: skip
_IOCTL = {"TCGETS": 0x5401, "TIOCGWINSZ": 0x5413, "FIONREAD": 0x541B, "FIONBIO": 0x5421, "FIONCLEX": 0x5450,
          "FIOCLEX": 0x5451}  # fmt: skip


def compiled() -> bytes:
    """Compiles the filter to instructions of 8 bytes for `kernel.seccomp`; raises RuntimeError without libseccomp."""
    import pyseccomp  # raises RuntimeError without the library

    equal, argument = pyseccomp.EQ, pyseccomp.Arg
    rules: list[tuple[int, str, tuple[pyseccomp.Arg, ...]]] = [
        *((pyseccomp.ALLOW, name, ()) for name in _ALLOWED),
        (pyseccomp.ALLOW, "clone", (argument(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD),)),
        # Filters cannot see its flags, which are in memory; the C library falls back to clone.
        (pyseccomp.ERRNO(errno.ENOSYS), "clone3", ()),
        (pyseccomp.ALLOW, "socketpair", (argument(0, equal, socket.AF_UNIX),)),
        (pyseccomp.ALLOW, "prctl", (argument(0, equal, _PR_SET_NAME),)),
        (pyseccomp.ALLOW, "prlimit64", (argument(0, equal, 0),)),
        *((pyseccomp.ALLOW, "fcntl", (argument(1, equal, command),)) for command in _FCNTL.values()),
        *((pyseccomp.ALLOW, "ioctl", (argument(1, equal, request),)) for request in _IOCTL.values()),
    ]
    syscall_filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for action, name, arguments in rules:
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:  # else unknown to this processor or library
            syscall_filter.add_rule(action, name, *arguments)
    with tempfile.TemporaryFile() as file:
        syscall_filter.export_bpf(file)
        file.seek(0)
        return file.read()
