"""The other libraries' sides, which the interpreter of the peers' environment runs (`constraints-peers.txt`).

Of this project they import only modules that need nothing but the standard library: `turns`, `resources` and
`grpo_iteration_task`.
"""
