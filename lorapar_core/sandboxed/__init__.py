"""What runs inside the sandbox: nothing here imports more than the standard library and itself.

`lorapar_core.sandbox` starts `__main__.py` twice for each program: once for the program, once for
the tests, each in a sandbox of its own.
"""
