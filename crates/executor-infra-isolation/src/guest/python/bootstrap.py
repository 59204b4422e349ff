# In a function, as zygote.py is: guests have stacks of the same depth either way.
def bootstrap():
    import sys
    sys.path[:] = [entry for entry in sys.path if entry]
    channel = open(3, "rb", closefd=False)
    size = int.from_bytes(channel.read(4), "little")
    program = channel.read(size + 1)[1:]
    if program[:1] == b"M":
        import marshal
        program = marshal.loads(program[1:])
    else:
        program = compile(program[1:], "<runner>", "exec", dont_inherit=True, optimize=2)
    runner = {"__name__": "sandbox_executor_runner"}
    exec(program, runner)
    runner["main"](channel)

bootstrap()
