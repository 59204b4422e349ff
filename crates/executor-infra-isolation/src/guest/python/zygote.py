# All in a function, without a name of this module: those are the guest's, and are cleared in a rehearsal.
def zygote():
    import sys
    sys.path[:] = [entry for entry in sys.path if entry]
    import ctypes, gc, importlib, os
    def receive():
        def take(size):
            taken = b""
            while len(taken) < size:
                taken += os.read(3, size - len(taken)) or sys.exit("the channel has ended")
            return taken
        return take(int.from_bytes(take(5)[:4], "little"))
    program = receive()
    if program[:1] == b"M":
        import marshal
        program = marshal.loads(program[1:])
    else:
        program = compile(program[1:], "<runner>", "exec", dont_inherit=True, optimize=2)
    runner = {"__name__": "sandbox_executor_runner"}
    exec(program, runner)
    # OpenBLAS starts threads when it is loaded, and at a fork waits for them, which a copy of this process does not have.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in receive().decode().split():
        try:
            importlib.import_module(name)
        except BaseException as error:
            sys.exit("%s cannot be imported: %s: %s" % (name, type(error).__name__, error))
    del os.environ["OPENBLAS_NUM_THREADS"]
    guest = ctypes.PyDLL("/proc/self/fd/4")
    interpreter = ctypes.pythonapi
    # Not often: from the eighth time on CPython rewrites the code, and guests could then recurse one level deeper than cold.
    runner["rehearse"]()
    gc.collect()
    gc.freeze()
    guest.executor_guest_wait()
    while True:
        interpreter.PyOS_BeforeFork()
        made = guest.executor_guest_fork()
        if made:
            break
        interpreter.PyOS_AfterFork_Parent()
    interpreter.PyOS_AfterFork_Child()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if made == 1:
        # Nobody waits yet.
        runner["rehearse"]()
    channel = open(3, "rb", closefd=False)
    guest.executor_guest_take()
    runner["main"](channel)

zygote()
