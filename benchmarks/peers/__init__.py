"""The other libraries' sides, which the interpreter of the peers' environment runs (`constraints-peers.txt`).

They import of this project only what needs nothing but the standard library: `turns`, `resources` and
`grpo_iteration_task`.
"""
