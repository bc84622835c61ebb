"""Programs that try to do harm. Each prints "escaped" and what it did where it could do what no program may.

They find in their first lines what the test has laid out for them: `PARENT` and `SERVER`, numbers of processes;
`SECRET`, a file with the text `WORD`, which is also in the environment of the test; `OUTSIDE`, a folder that all may
write to; `REPOSITORY` and `PACKAGES`, folders; `TCP`, `UDP`, ports; `UNIX`, a socket's path; `MARK`, a name for files.
"""

import dataclasses
from collections.abc import Sequence

from dsmath_jax.grading.sandbox.limits import Status

PRELUDE = '''
import ctypes, gc, os, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def escaped(what):
    os.write(1, f"escaped: {what}\\n".encode())
def attempt(what, call):
    try:
        found = call()
    except BaseException:
        return
    escaped(f"{what}: {found!r}")
def called(what, number, *arguments):
    """Makes a raw system call, which escapes where it succeeds."""
    if os.uname().machine != "x86_64":
        return  # other architectures have other numbers
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(value) for value in arguments]) >= 0:
        escaped(what)
def read(path):
    with open(path, "rb") as file:
        return file.read(100)
def write(path):
    with open(path, "wb") as file:
        file.write(b"written by a program")
'''


@dataclasses.dataclass(frozen=True)
class Hostile:
    """A program, its allowed statuses, and the mechanism without which its effect cannot be prevented."""

    code: str
    statuses: Sequence[Status] = ("ok",)
    call: str = ""
    needs: str = ""
    hangs: bool = False  # it runs into the time limit


PROGRAMS = {
    # Processes and threads.
    "fork bomb": Hostile(
        "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
        ("timed out", "killed"),
        hangs=True,
    ),
    "many forks": Hostile("""
for _ in range(100):
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        break
else:
    escaped("100 forks")
"""),
    "a daemon left behind": Hostile("""
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for descriptor in range(10):
                os.close(descriptor)
            time.sleep(600)
        os._exit(0)
except OSError:
    pass
"""),
    "vfork, clone and clone3": Hostile(
        """
called("vfork", 58)
called("clone", 56, 17, 0, 0, 0, 0)
called("clone of a user namespace", 56, 0x10000000 | 17, 0, 0, 0, 0)
called("clone3", 435, 0, 88)
""",
        needs="seccomp",
    ),
    "threads left behind": Hostile("""
for _ in range(8):
    threading.Thread(target=time.sleep, args=(600,)).start()
"""),
    "a bomb of threads": Hostile("""
threading.stack_size(1 << 16)
for _ in range(1000):
    try:
        threading.Thread(target=time.sleep, args=(600,)).start()
    except RuntimeError:
        break
else:
    escaped("1000 threads")
"""),
    "busy threads": Hostile(
        """
def spin():
    while True:
        hash("x" * 100)
for _ in range(4):
    threading.Thread(target=spin).start()
spin()
""",
        ("timed out",),
        hangs=True,
    ),
    "a shell": Hostile("""
attempt("sh", lambda: subprocess.run(["/bin/sh", "-c", "echo"], check=True))
attempt("python", lambda: subprocess.run([sys.executable or "/usr/bin/python3", "-c", "0"], check=True))
if os.system("exit 7") >> 8 == 7:
    escaped("os.system")
"""),
    "execve": Hostile("""
for path in (b"/bin/sh", b"/bin/true", b"/proc/self/exe"):
    libc.execv(path, (ctypes.c_char_p * 2)(path, None))
"""),
    "a library's code written by itself": Hostile("""
attempt("a file that runs", lambda: (write("run"), os.chmod("run", 0o755), subprocess.run(["./run"], check=True)))
"""),
    # Resources.
    "fill the disk": Hostile(
        """
written = 0
try:
    for number in range(2000):
        with open(f"{number}", "wb") as file:
            written += file.write(bytes(1 << 20))
        if written > 400 << 20:
            escaped("400 MiB on disk")
            break
except OSError:
    pass
""",
        ("ok", "killed"),
    ),
    "fill the disk behind files that come and go": Hostile(
        """
def flicker():
    while True:
        for name in "abcdefgh":
            open(name, "wb").close()
            os.unlink(name)
threading.Thread(target=flicker).start()
written = 0
try:
    for number in range(2000):
        with open(f"{number}", "wb") as file:
            written += file.write(bytes(1 << 20))
        if written > 800 << 20:
            escaped("800 MiB on disk")
            break
except OSError:
    pass
""",
        ("ok", "killed", "timed out"),
    ),
    "one huge file": Hostile(
        """
with open("file", "wb") as file:
    while True:
        file.write(bytes(1 << 20))
        if file.tell() > 64 << 20:
            escaped("64 MiB in a file")
            break
""",
        ("raised", "killed"),
    ),
    "a file with a hole": Hostile(
        "attempt('1 TiB', lambda: os.truncate(os.open('file', os.O_CREAT | os.O_RDWR), 1 << 40))"
    ),
    "blocks beyond the end of a file": Hostile("""
file = os.open("file", os.O_CREAT | os.O_RDWR)
if libc.fallocate(file, 1, ctypes.c_long(0), ctypes.c_long(1 << 28)) == 0:
    escaped("256 MiB that no limit counts")
"""),
    "many files": Hostile(
        """
try:
    for number in range(100_000):
        open(f"{number}", "wb").close()
except OSError:
    pass
else:
    escaped("100,000 files")
""",
        ("ok", "killed"),
    ),
    "fill memory": Hostile("found = []\nwhile True:\n    found.append(bytes(1 << 24))", ("out of memory",)),
    "fill memory by NumPy": Hostile(
        "import numpy\nfound = [numpy.zeros(1 << 22) for _ in range(1000)]", ("out of memory",)
    ),
    "memory without a limit of address space": Hostile(
        """
attempt("memfd", lambda: os.memfd_create("x"))
called("shmget", 29, 0, 1 << 20, 0o1600)
""",
        needs="seccomp",
    ),
    "memory that outlives its program": Hostile("""
for key in range(1, 5):  # of System V, under a name that another run of the program finds
    if libc.shmget(key, 1 << 20, 0) >= 0:
        escaped("memory of an earlier program")
    libc.shmget(key, 1 << 20, 0o1666)
"""),
    "memory that the one before left": Hostile("""
if any(libc.shmget(key, 1 << 20, 0) >= 0 or libc.msgget(key, 0) >= 0 for key in range(1, 5)):
    escaped("memory of an earlier program")
"""),
    "its own file system in memory": Hostile("""
if libc.unshare(0x10000000 | 0x20000) == 0 and libc.mount(b"tmpfs", b".", b"tmpfs", 0, None) == 0:
    escaped("tmpfs without a limit")
"""),
    "deleted files that stay open": Hostile(
        """
written, held = 0, []
try:
    for number in range(2000):
        held.append(open(f"{number}", "wb", buffering=0))
        os.unlink(f"{number}")
        written += held[-1].write(bytes(1 << 20))
    escaped("2000 descriptors")
except OSError:
    pass
if written > 128 << 20:
    escaped("more than a file for each descriptor")
""",
        ("ok", "killed"),
    ),
    "pipes and sockets full of data": Hostile("""
written = 0
try:
    one, other = socket.socketpair()
    while True:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            while True:
                written += os.write(writer, bytes(1 << 16))
        except BlockingIOError:
            pass
        socket.send_fds(one, [b"x"], [reader, writer])
        os.close(reader)
        os.close(writer)
        if written > 64 << 20:
            escaped("64 MiB in pipes that nobody holds")
            break
except OSError:
    pass
"""),
    "a power tower": Hostile("print(9**9**9**9)", ("timed out",), hangs=True),
    "a huge integer as text": Hostile("print(str(1 << (1 << 28)))", ("timed out",), hangs=True),
    "a regular expression": Hostile("import re\nre.match('(a*)*$', 'a' * 50 + 'b')", ("timed out",), hangs=True),
    "deep recursion": Hostile(
        "sys.setrecursionlimit(10**8)\nclass A:\n    def __getattr__(self, name):\n"
        "        return getattr(self, name + 'x')\nA().x",
        ("killed", "out of memory", "raised", "timed out"),
    ),
    "a flood of output": Hostile("while True:\n    print('x' * 1000)", ("too much output",)),
    "a flood of errors": Hostile("while True:\n    print('x' * 1000, file=sys.stderr)", ("too much output",)),
    "a flood of results": Hostile("while True:\n    os.write(3, b'x' * 1000)", ("too much output",)),
    "sleep forever": Hostile("time.sleep(10**6)", ("timed out",), hangs=True),
    "sleep in C": Hostile("while True:\n    libc.sleep(1000)", ("timed out",), hangs=True),
    "all descriptors": Hostile(
        "found = []\nwhile True:\n    found += os.pipe()\n    if len(found) > 1000:\n"
        "        escaped('1000 descriptors')\n        break",
        ("raised",),
    ),
    "greater limits": Hostile("""
import resource
for name in ("AS", "CPU", "FSIZE", "NPROC", "NOFILE"):
    kind = getattr(resource, f"RLIMIT_{name}")
    soft, hard = resource.getrlimit(kind)
    attempt("a greater limit", lambda: resource.setrlimit(kind, (hard + 1, hard + 1)))
"""),
    "a core dump": Hostile("open('a', 'w').close()\nlibc.abort()", ("killed",)),
    "a greater priority": Hostile("""
attempt("nice", lambda: os.nice(-5))
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
"""),
    # Signals.
    "kill the parent": Hostile(
        "for process in (PARENT, SERVER):\n    attempt('a signal', lambda: os.kill(process, 9))"
    ),
    "kill the first process": Hostile("""
try:
    os.kill(1, signal.SIGKILL)
except OSError:
    pass
"""),
    "kill every process": Hostile("""
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
for process in range(2, 5000):
    try:
        os.kill(process, signal.SIGKILL)
    except OSError:
        pass
"""),
    "signals by other calls": Hostile(
        """
called("tgkill", 234, PARENT, PARENT, 0)
called("rt_sigqueueinfo", 129, PARENT, 0, 0)
called("pidfd_open", 434, PARENT, 0)
import fcntl
reader, writer = os.pipe()
attempt("F_SETOWN", lambda: fcntl.fcntl(reader, 8, PARENT))
""",
        needs="seccomp",
    ),
    "stop itself": Hostile(
        "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(10**6)", ("timed out", "raised"), hangs=True
    ),
    "ignore all signals": Hostile(
        """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
        ("timed out",),
        hangs=True,
    ),
    # Files.
    "read the system's files": Hostile("""
for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc", "/var/log/lastlog", "/sys/kernel/notes"):
    attempt(path, lambda: read(path))
"""),
    "read a file of the user": Hostile("""
attempt("open", lambda: read(SECRET))
attempt("relative", lambda: read("../" * 20 + SECRET))
attempt("list", lambda: os.listdir(os.path.dirname(SECRET)))
for name in (".bashrc", ".profile", ".ssh", ".cache"):
    attempt("home", lambda: os.listdir(os.path.expanduser(f"~root/{name}")))
"""),
    "read the environment": Hostile("""
if any(WORD in value for value in os.environ.values()):
    escaped("os.environ")
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
for place in range(1000):
    if not environ or environ[place] is None:
        break
    if WORD.encode() in environ[place]:
        escaped("environ")
for process in ("self", 1, os.getppid(), PARENT, SERVER):
    for name in ("environ", "cmdline", "maps", "mem"):
        attempt(name, lambda: read(f"/proc/{process}/{name}"))
"""),
    "read the repository": Hostile(
        "attempt('read', lambda: read(REPOSITORY + '/setup.py'))\n"
        "attempt('list', lambda: os.listdir(REPOSITORY).index('setup.py'))"
    ),
    "import the project": Hostile("""
sys.path[:0] = [REPOSITORY]
def project():
    import dsmath_jax.grading.sandbox.server
attempt("import", project)
if any(name.startswith("dsmath_jax") for name in sys.modules):
    escaped("sys.modules")
"""),
    "write to the repository": Hostile("""
attempt("new", lambda: write(f"{REPOSITORY}/{MARK}"))
attempt("old", lambda: open(REPOSITORY + "/setup.py", "ab").close())
attempt("remove", lambda: os.remove(f"{REPOSITORY}/{MARK}.absent") or os.rmdir(REPOSITORY))
"""),
    "write to the packages": Hostile("""
attempt("new", lambda: write(f"{PACKAGES}/{MARK}.pth"))
attempt("a module", lambda: open(os.__file__, "ab").close())
attempt("compiled", lambda: write(f"{os.path.dirname(os.__file__)}/__pycache__/{MARK}.pyc"))
attempt("rename", lambda: os.rename(os.__file__, os.__file__ + MARK))
attempt("mode", lambda: os.chmod(os.__file__, 0o777))
"""),
    "write to shared folders": Hostile("""
for folder in (OUTSIDE, "/tmp", "/var/tmp", "/dev/shm", "/dev", "/run", "/", "..", os.path.dirname(os.getcwd())):
    attempt(folder, lambda: write(f"{folder}/{MARK}"))
    attempt(folder, lambda: os.mkdir(f"{folder}/{MARK}.folder"))
    attempt(folder, lambda: os.rename("mine", f"{folder}/{MARK}.renamed") if write("mine") is None else None)
"""),
    "symbolic links": Hostile("""
for target in (SECRET, "/etc/passwd", "/proc/self/environ"):
    try:
        os.symlink(target, f"link{len(target)}")
    except OSError:
        continue
    attempt(f"read of {target}", lambda: read(f"link{len(target)}"))
    attempt(f"write to {target}", lambda: write(f"link{len(target)}"))
try:
    os.symlink(OUTSIDE, "folder")
except OSError:
    pass
attempt("write below a link", lambda: write(f"folder/{MARK}"))
try:
    os.symlink(OUTSIDE, "left")  # for whoever cleans up
except OSError:
    pass
"""),
    "modes and times": Hostile("""
attempt("mode", lambda: os.chmod(SECRET, 0o777))
attempt("mode of a descriptor", lambda: os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o777))
attempt("times", lambda: os.utime(SECRET, (0, 0)))
attempt("length", lambda: os.truncate(SECRET, 0))
attempt("length when it is opened", lambda: os.open(os.__file__, os.O_RDONLY | os.O_TRUNC))
attempt("attributes", lambda: os.setxattr(SECRET, "user.a", b"b"))
attempt("owner", lambda: os.chown(SECRET, os.getuid(), os.getgid()))
attempt("name", lambda: os.rename(SECRET, SECRET + MARK))
attempt("removal", lambda: os.unlink(SECRET))
"""),
    "hard links": Hostile("""
for target in (SECRET, "/etc/passwd", os.__file__):
    attempt(target, lambda: os.link(target, "hard"))
"""),
    "leave the root": Hostile("""
def leave():
    os.chroot(".")
    for _ in range(50):
        os.chdir("..")
    os.chroot(".")
    return read(SECRET)
attempt("chroot", leave)
attempt("fd of a folder", lambda: [read(f"/dev/fd/{number}/{SECRET}") for number in range(64)])
for number in range(4, 256):
    try:
        os.fstat(number)
    except OSError:
        continue
    escaped(f"descriptor {number}")
"""),
    "open by handle": Hostile("""
if libc.open_by_handle_at(os.open(".", os.O_PATH), ctypes.create_string_buffer(64), 0) >= 0:
    escaped("a file by its handle")
called("name_to_handle_at", 303, -100, 0, 0, 0, 0)
"""),
    "devices": Hostile("""
attempt("mknod", lambda: os.mknod("disk", 0o60600, os.makedev(254, 0)))
attempt("mknod of memory", lambda: os.mknod("memory", 0o20600, os.makedev(1, 1)))
for name in "mem kmsg vda sda tty ptmx fuse kvm net/tun".split():
    attempt(name, lambda: read(f"/dev/{name}"))
"""),
    "another user": Hostile("""
attempt("setuid", lambda: os.setuid(0 if os.getuid() else 1))
attempt("setgid", lambda: os.setgid(0 if os.getgid() else 1))
attempt("setgroups", lambda: os.setgroups([0]))
write("tool")
attempt("chown", lambda: os.chown("tool", 0 if os.getuid() else 1, 0))
"""),
    # The network.
    "TCP": Hostile("""
for address in ("127.0.0.1", "localhost", "10.0.0.1", "1.1.1.1"):
    attempt(address, lambda: socket.create_connection((address, TCP), timeout=1))
"""),
    "UDP": Hostile("""
def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        return found.sendto(b"data", ("127.0.0.1", UDP))
attempt("sent", send)
"""),
    "Unix sockets": Hostile("""
def connect(path):
    found = socket.socket(socket.AF_UNIX)
    found.connect(path)
    return found
attempt("path", lambda: connect(UNIX))
attempt("abstract", lambda: connect(chr(0) + MARK))
attempt("docker", lambda: connect("/var/run/docker.sock"))
"""),
    "names of hosts": Hostile("attempt('name', lambda: socket.getaddrinfo('example.com', 80))"),
    "its own server": Hostile("""
attempt("packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
"""),
    "a listening socket": Hostile("attempt('listen', lambda: socket.create_server(('127.0.0.1', 0)))", needs="seccomp"),
    # The kernel.
    "ptrace": Hostile("""
for process in (PARENT, SERVER, os.getppid() or 1 << 21):
    if libc.ptrace(16, process, None, None) == 0:
        escaped("attached")
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    if libc.process_vm_readv(process, vector, 1, vector, 1, 0) >= 0:
        escaped("read")
"""),
    "mounts": Hostile("""
if libc.mount(b"tmpfs", b".", b"tmpfs", 0, None) == 0:
    escaped("tmpfs")
if libc.mount(b"/", b".", None, 4096, None) == 0:
    escaped("bind")
if libc.umount2(b"/scratch", 2) == 0 or libc.umount2(b"/usr/lib", 2) == 0:
    escaped("umount")
if libc.pivot_root(b".", b".") == 0:
    escaped("pivot_root")
if libc.mount(None, b"/", None, 32 | 4096, None) == 0:
    escaped("remount")
"""),
    "its own namespaces": Hostile(
        """
for flag in (0x20000, 0x10000000, 0x40000000, 0x20000000, 0x10000000 | 0x20000):
    if libc.unshare(flag) == 0:
        escaped(f"unshare {flag:x}")
"""
    ),
    "calls of the kernel": Hostile(
        """
called("keyctl", 250, 0, -3, 0)
called("add_key", 248, 0, 0, 0, 0, -3)
called("bpf", 321, 0, 0, 0)
called("io_uring_setup", 425, 1, 0)
called("userfaultfd", 323, 1)
called("perf_event_open", 298, 0, 0, -1, -1, 0)
called("inotify_init1", 294, 0)
called("fanotify_init", 300, 0, 0)
called("personality", 135, 0x40000)
called("modify_ldt", 154, 0, 0, 0)
called("kcmp", 312, PARENT, PARENT, 0, 0, 0)
called("seccomp", 317, 2, 0, 0)
called("prctl: dumpable", 157, 4, 1)
called("landlock", 444, 0, 0, 1)
called("memfd_secret", 447, 0)
called("an unknown one", 999)
""",
        needs="seccomp",
    ),
    "calls of another processor": Hostile(
        """
called("a fork of x32", 0x40000000 | 57)
if os.uname().machine == "x86_64":
    import mmap
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\\xb8\\x02\\0\\0\\0\\xcd\\x80\\xc3")  # a fork of i386
    if ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() >= 0:
        escaped("a fork of i386")
""",
        ("ok", "killed"),
        needs="seccomp",
    ),
    "the system's settings": Hostile("""
attempt("hostname", lambda: socket.sethostname("x"))
attempt("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
attempt("sysctl", lambda: write("/proc/sys/kernel/core_pattern"))
called("reboot", 169, 0, 0, 0)
called("sysfs", 175, 0, 0, 0)
"""),
    # The runner.
    "close all descriptors": Hostile("os.closerange(0, 1024)", ("ok", "killed", "raised")),
    "write to all descriptors": Hostile(
        """
for number in range(3, 1024):
    try:
        os.write(number, b'ok 1\\n1{"number": 0, "status": 0, "cpu": 0, "error": ""}')
    except OSError:
        pass
os._exit(0)
""",
        ("killed",),
    ),
    "a false number": Hostile(
        """
import struct
for number in range(3, 64):
    try:
        found = socket.socket(fileno=number)
        found.send(b"0")
        found.send(b'{"number": 0, "status": 0, "cpu": 0, "error": ""}')
        escaped("a socket")
    except OSError:
        pass
os._exit(0)
""",
        ("killed",),
    ),
    "a replaced library": Hostile(
        """
import builtins, json, traceback
def false(*_, **__):
    raise SystemExit
os.write = os._exit = json.loads = json.dumps = traceback.format_exception = builtins.len = builtins.str = false
builtins.print = false
sys.modules.clear()
""",
        ("ok", "raised", "killed"),
    ),
    "no standard output": Hostile("sys.stdout = sys.stderr = None\nsys.__stdout__ = None", ("ok", "raised", "killed")),
    "a value whose text hangs": Hostile(
        """
class Value:
    def __str__(self):
        while True:
            pass
def solution():
    return Value()
""",
        ("timed out",),
        "solution",
        hangs=True,
    ),
    "a value of great length": Hostile("def solution():\n    return 'x' * 10**8", ("ok",), "solution"),
    "an error whose text fails": Hostile(
        """
class Error(BaseException):
    def __str__(self):
        raise self
    __repr__ = __str__
raise Error
""",
        ("raised",),
    ),
    "a look around in the memory": Hostile("""
for found in gc.get_objects():
    if isinstance(found, dict):
        for value in list(found.values()):
            if isinstance(value, (str, bytes)) and "NEIGHBOUR".lower() in str(value):
                escaped("another program")
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()):
        if isinstance(value, socket.socket):  # an object without a descriptor
            attempt("a socket of the server", lambda: value.send(b"0"))
    frame = frame.f_back
"""),
    "another's scratch folder": Hostile("""
here = os.getcwd()
for number in range(200):
    path = os.path.join(os.path.dirname(here), str(number))
    if path != here:
        attempt("list", lambda: os.listdir(path))
        attempt("write", lambda: write(f"{path}/{MARK}"))
"""),
    "its own exit": Hostile("os._exit(0)", ("killed",)),
    "an end by exit": Hostile("sys.exit(0)", ("raised",)),
}
