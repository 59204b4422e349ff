"""Runs one Python guest: reads its job from the guest channel, runs its code, sends back what came of it.

The protocol, and what a runner must and must not do, is docs/guest-channel.md. Two things shape this program:

- Start-up time. `json`, `traceback`, `inspect` and `asyncio` each cost as much as the interpreter's own start or
  several times that. On the way to a result nothing is imported that is not a builtin or loaded already, except the
  small C module `_json`; the rest is imported where something goes wrong or is asked for.
- The guest shares the interpreter, so it can break anything here. That spoils its own result and nothing else; what
  counts is that no *accident* of a guest (an exception whose `__str__` raises, a closed stdout) keeps it from an answer.
"""

import os
import sys
import time
from _io import BytesIO, StringIO, _IOBase

CHANNEL = 3
GUEST_FILE = "main.py"
RUNNER_FILE = (lambda: None).__code__.co_filename

# Bounds of an error report. The daemon's decoder (channel.rs) has the same ones and cuts whatever exceeds them.
MAX_FAILURE_BYTES = 1 << 20
MAX_TYPE_CHARS = 256
MAX_MESSAGE_CHARS = 16 * 1024
MAX_ENTRY_CHARS = 2048
MAX_ENTRIES = 64
# Deeper stacks (a guest can raise the recursion limit to millions) are read from their inner end only.
MAX_DEPTH = 2000
MAX_CHAIN = 16
# A program that never closes its figures can have thousands, and each takes a tenth of a second to draw.
MAX_FIGURES = 20



def main(channel):
    """Runs the guest whose frames come next on `channel`. Ends the process, or raises SystemExit to end it."""
    os.set_inheritable(CHANNEL, False)
    process = os.getpid()
    frame, status, orderly = prepare(channel)()
    # A child that the guest forked and that came out here speaks for nobody.
    if os.getpid() == process:
        send(*frame)
    if orderly:
        raise SystemExit(status)
    os._exit(status)


def prepare(channel):
    """Reads a job. Returns what runs it, and says then: the frame to send, the exit status, and whether to exit as Python
    does."""
    job = from_json(receive(channel, b"J"))
    source = receive(channel, b"C")
    event = receive(channel, b"E")
    # Only for interpreters that were started before their job.
    for name, value in job.get("environment", ()):
        os.environ[name] = value
    if source[:1] == "\ufeff":
        source = source[1:]
    process, workspace = os.getpid(), os.getcwd()
    namespace = become_main(source)

    def go():
        frame, status, orderly = run(job, source, event, namespace)
        # A handler's answer waits for nobody. A script, or a guest that asked to exit, ends as Python ends: threads are
        # joined, exit handlers run, and at the very end the interpreter closes what is still open.
        if orderly:
            quietly(join_threads)
        # Before the exit handlers: matplotlib's own closes all figures.
        if os.getpid() == process:
            quietly(lambda: save_figures(workspace))
        if orderly:
            quietly(run_exit_handlers)
        flush_files(namespace)
        return frame, status, orderly

    return go


def run(job, source, event, namespace):
    """Runs the guest's code. Returns the frame to send, the exit status, and whether to exit as Python does."""
    script = job["mode"] == "script"
    try:
        program = compile(source, GUEST_FILE, "exec", dont_inherit=True)
    except Exception as error:
        # Mostly SyntaxError; a source can also be too deep or hold a NUL, for which Python has other exceptions.
        return report(error, "syntax_error", source), 1, script
    try:
        exec(program, namespace)
        if script:
            return (b"R", b"null"), 0, True
        handler = namespace.get("handler")
        if not callable(handler):
            return missing_handler("handler" in namespace), 1, False
        value = call(handler, from_json(event), Context(job))
        return (b"R", to_json(value, job["max_result_bytes"])), 0, False
    except NotSerializable as problem:
        complain(problem.error_type + ": " + problem.message)
        return failure(problem.error_type, problem.message, "not_serializable"), 1, False
    except ResultTooLarge:
        limit = job["max_result_bytes"]
        message = "The return value takes more than %d bytes as JSON, the most that is allowed" % limit
        complain(message)
        return failure("ResultTooLarge", message, "result_too_large"), 1, False
    except SystemExit as stop:
        status = exit_status(stop)
        return (b"Q", b"%d" % status), status, True
    except BaseException as error:
        return report(error, "handler_error", source), 1, script


def rehearse():
    """Goes the way of a small job and leaves nothing of it behind, so that what is made on first use is there, and the pages
    that the way writes to are this process's own. For interpreters that are started before their job."""
    frames = (
        (b"J", b'{"mode": "handler", "remaining_ms": 1, "memory_limit_mb": 1, "execution_id": "e", "session_id": "s",'
               b' "max_result_bytes": 99, "environment": [["REHEARSAL", "x"]]}'),
        (b"C", b"def handler(event):\n    return {'n': event['n']}\n"),
        (b"E", b'{"n": [1, 2.5, "x"]}'),
    )
    channel = BytesIO(b"".join(len(payload).to_bytes(4, "little") + kind + payload for kind, payload in frames))
    prepare(channel)()
    del os.environ["REHEARSAL"]


# ---- The channel


def receive(channel, kind):
    """Reads one frame from the daemon, which must be of this kind, as text."""
    header = channel.read(5)
    payload = channel.read(int.from_bytes(header[:4], "little"))
    if header[4:] != kind:
        raise SystemExit("the guest channel ended before the job was complete")
    return payload.decode()


def send(kind, payload):
    """Sends one frame to the daemon; in vain where the guest has closed the channel."""
    frame = memoryview(len(payload).to_bytes(4, "little") + kind + payload)
    try:
        while frame:
            frame = frame[os.write(CHANNEL, frame) :]
    except OSError:
        pass


# ---- The guest's surroundings


class SourceLoader:
    """Hands the guest's source to `inspect`, `linecache` and `pdb`, which find no file of that name."""

    def __init__(self, source):
        self.source = source

    def get_source(self, _name):
        return self.source


def become_main(source):
    """Makes the real `__main__` the guest's module, so that pickle, multiprocessing and typing find it. Returns its
    namespace."""
    import builtins

    directory = os.getcwd()
    namespace = sys.modules["__main__"].__dict__
    namespace.clear()
    namespace.update(
        __name__="__main__",
        __doc__=None,
        __package__=None,
        __loader__=SourceLoader(source),
        __spec__=None,
        __builtins__=builtins,
        __file__=directory + "/" + GUEST_FILE,
    )
    sys.argv[:] = [GUEST_FILE]
    # Last, so that a file which happens to be called json.py hides nothing from the standard library.
    if directory not in sys.path:
        sys.path.append(directory)
    # What a guest printed before it was killed is worth having.
    quietly(lambda: sys.stdout.reconfigure(line_buffering=True))
    return namespace


class Context:
    """The second argument of a handler, with the attributes that AWS Lambda documents."""

    def __init__(self, job):
        deadline = time.monotonic() + job["remaining_ms"] / 1000
        self.aws_request_id = job["execution_id"]
        self.function_name = "handler"
        self.function_version = "$LATEST"
        self.memory_limit_in_mb = job["memory_limit_mb"]
        self.invoked_function_arn = "arn:aws:lambda:local:000000000000:function:handler"
        self.log_group_name = "/aws/lambda/" + job["session_id"]
        self.log_stream_name = job["execution_id"]
        self.identity = Identity()
        self.client_context = None
        self.get_remaining_time_in_millis = lambda: max(0, int((deadline - time.monotonic()) * 1000))


class Identity:
    """Who called, according to Amazon Cognito: here, nobody."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


FUNCTION = type(main)
METHOD = type(SourceLoader("").get_source)


def call(handler, event, context):
    """Calls the handler with as many of (event, context) as it takes, and awaits what can be awaited."""
    result = handler(*(event, context)[: arity(handler)])
    if not hasattr(type(result), "__await__"):
        return result
    import asyncio

    async def wait():
        return await result

    return asyncio.run(wait())


def arity(handler):
    """How many positional arguments the handler takes: 0, 1 or 2."""
    function, bound = handler, 0
    if isinstance(function, METHOD):
        function, bound = function.__func__, 1
    elif not isinstance(function, FUNCTION):
        function, bound = type(function).__call__, 1
    # Decorators leave `__wrapped__` or `__signature__` in the function's dictionary: those are for inspect.
    if isinstance(function, FUNCTION) and not function.__dict__:
        code = function.__code__
        takes_any = code.co_flags & 0x04  # CO_VARARGS
        return 2 if takes_any else min(2, max(0, code.co_argcount - bound))
    import inspect

    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return 1  # some builtins have no signature
    for count in (2, 1, 0):
        try:
            signature.bind(*[None] * count)
            return count
        except TypeError:
            pass
    return 1


# ---- JSON


class ResultTooLarge(Exception):
    """The return value takes more bytes than may be sent."""


class NotSerializable(Exception):
    """The return value, or something in it, has no JSON form."""

    def __init__(self, error_type, message):
        self.error_type = error_type
        self.text = message
        self.path = []  # from the inside out, filled in on the way up

    @property
    def message(self):
        where = "".join(reversed(self.path))
        return clip(self.text + (" (at return_value%s)" % where if where else ""), MAX_MESSAGE_CHARS)


class Decoding:
    """What CPython's scanner asks its context for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None


def from_json(text):
    """Parses JSON text as `json.loads` does, without importing json where CPython's C scanner is at hand."""
    try:
        from _json import make_scanner

        scan = make_scanner(Decoding)
    except (ImportError, AttributeError, TypeError):
        import json

        return json.loads(text)
    value, _end = scan(text.strip(" \t\r\n"), 0)
    return value


def to_json(value, limit):
    """Returns the value as JSON text in UTF-8, at most `limit` bytes. Raises ResultTooLarge or NotSerializable."""
    text = encode_plain(value, limit)
    if text is None:
        text = encode_carefully(value, limit)
    try:
        payload = text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair is not text, and strict JSON parsers refuse it even as an escape.
        payload = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    if len(payload) > limit:
        raise ResultTooLarge
    return payload


def encode_plain(value, limit):
    """JSON text by CPython's C encoder; None where the value needs a closer look or the encoder is not there."""
    room = limit

    def string(text):
        # Counted here so that a huge string is refused before it exists three times over.
        nonlocal room
        room -= len(text) + 2
        if room < 0:
            raise ResultTooLarge
        return quote(text)

    def refuse(_value):
        raise TypeError

    try:
        from _json import encode_basestring as quote, make_encoder

        # markers, default, encoder, indent, key_separator, item_separator, sort_keys, skipkeys, allow_nan
        encode = make_encoder(None, refuse, string, None, ":", ",", False, False, False)
        return "".join(encode(value, 0))
    except ResultTooLarge:
        raise
    except Exception:
        return None


def encode_carefully(value, limit):
    """JSON text by hand: knows Decimal, turns NaN and infinities into null, names what cannot be encoded and where."""
    from json.encoder import encode_basestring as quote

    decimal = sys.modules.get("decimal")
    chunks, room = [], limit
    enclosing = set()
    found_nan = False

    def emit(text):
        nonlocal room
        room -= len(text)
        if room < 0:
            raise ResultTooLarge
        chunks.append(text)

    def string(text):
        if len(text) > room:
            raise ResultTooLarge
        emit(quote(text))

    def number(text):
        nonlocal found_nan
        finite = text not in ("nan", "inf", "-inf")
        found_nan = found_nan or not finite
        emit(text if finite else "null")

    def key(name):
        if isinstance(name, str):
            return name
        for constant, spelling in ((True, "true"), (False, "false"), (None, "null")):
            if name is constant:
                return spelling
        if isinstance(name, int):
            return int.__repr__(name)
        if isinstance(name, float):
            text = float.__repr__(name)
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
        kind = type(name).__name__
        raise NotSerializable("TypeError", "keys must be str, int, float, bool or None, not " + kind)

    def walk(value):
        if value is None:
            emit("null")
        elif value is True:
            emit("true")
        elif value is False:
            emit("false")
        elif isinstance(value, str):
            string(value)
        elif isinstance(value, int):
            emit(int.__repr__(value))
        elif isinstance(value, float):
            number(float.__repr__(value))
        elif isinstance(value, (list, tuple)):
            enclose(value, "[", "]", enumerate(value), False)
        elif isinstance(value, dict):
            enclose(value, "{", "}", value.items(), True)
        elif decimal and isinstance(value, decimal.Decimal):
            number(str(value) if value.is_finite() else "nan")
        else:
            name = type(value).__name__
            raise NotSerializable("TypeError", "Object of type %s is not JSON serializable" % name)

    def enclose(container, opening, closing, items, named):
        if id(container) in enclosing:
            raise NotSerializable("ValueError", "Circular reference detected")
        enclosing.add(id(container))
        emit(opening)
        separator, name = "", None
        try:
            for name, item in items:
                emit(separator)
                separator = ","
                if named:
                    string(key(name))
                    emit(":")
                walk(item)
        except NotSerializable as problem:
            if len(problem.path) < MAX_ENTRIES:
                problem.path.append("[%s]" % clip(repr(name), 64))
            raise
        emit(closing)
        enclosing.discard(id(container))

    try:
        walk(value)
    except RecursionError:
        raise NotSerializable("RecursionError", "The return value is nested too deeply") from None
    except (NotSerializable, ResultTooLarge):
        raise
    except Exception as error:
        # Raised by the guest's own containers, or for integers of more digits than Python spells out.
        raise NotSerializable(type(error).__name__, describe(error)) from None
    if found_nan:
        complain("note: NaN and infinities in the return value became null")
    return "".join(chunks)


# ---- What went wrong


def missing_handler(exists):
    """The frame for code that defines no handler."""
    what = "`handler` is not callable" if exists else "The code defines no `handler`"
    message = what + ': define `def handler(event)` or `def handler(event, context)`, or send mode: "script"'
    message += " to run the code from top to bottom"
    complain("HandlerNotFound: " + message)
    return failure("HandlerNotFound", message, "handler_not_found")


def report(error, reason, source):
    """The frame for an exception of the guest's, whose traceback it also prints, as Python would have done."""
    name = type(error).__name__
    message = describe(error)
    try:
        printed, entries = explain(error, source)
    except BaseException:
        # Out of memory or descriptors, or an exception that resists being looked at.
        entries = plain_entries(error.__traceback__, source)
        printed = "\n".join(["Traceback (most recent call last):"] + entries + [name + ": " + message, ""])
    if sys.excepthook is sys.__excepthook__:
        quietly(lambda: sys.stderr.write(printed))
    else:
        quietly(lambda: sys.excepthook(type(error), error, error.__traceback__))
    return failure(name, message, reason, entries)


def explain(error, source):
    """Returns the traceback as Python prints it, and as a list of entries, both without the runner's frames."""
    import linecache
    import traceback

    # A file of that name in the workspace is not the guest's program: without a time stamp linecache does not look.
    lines = StringIO(source, newline=None).readlines()
    linecache.cache[GUEST_FILE] = (len(source), None, lines, GUEST_FILE)
    depth = strip_chain(error)
    limit = None if depth <= MAX_DEPTH else -MAX_ENTRIES
    details = traceback.TracebackException(type(error), error, error.__traceback__, limit=limit)
    formatted = list(details.format())
    entries = formatted
    if not hasattr(error, "exceptions"):
        # Type and message have fields of their own. A syntax error's place, which is indented, is kept.
        last = list(details.format_exception_only())
        entries = formatted[: -len(last)] + [line for line in last if line.startswith("  ")]
    header = "Traceback (most recent call last):\n"
    return "".join(formatted), [entry.strip("\n") for entry in entries if entry != header]


def strip_chain(error):
    """Takes the runner's frames off an exception and off those it came from, and cuts overlong chains. Returns the
    depth of the deepest stack."""
    asyncio = sys.modules.get("asyncio")
    ours = (RUNNER_FILE,) + tuple(getattr(asyncio, "__path__", ()))
    pending, seen, deepest = [error], set(), 0
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        trace = current.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
            trace = trace.tb_next
        current.__traceback__ = trace
        depth = 0
        while trace is not None:
            trace, depth = trace.tb_next, depth + 1
        deepest = max(deepest, depth)
        if len(seen) >= MAX_CHAIN:
            current.__cause__ = current.__context__ = None
        pending += [current.__cause__, current.__context__]
        pending += list(getattr(current, "exceptions", ()))[:MAX_CHAIN]
    return deepest


def plain_entries(trace, source):
    """A stack's entries by means that need no import and hardly any memory."""
    lines, entries = source.split("\n"), []
    while trace is not None and len(entries) < MAX_ENTRIES:
        code, number = trace.tb_frame.f_code, trace.tb_lineno
        trace = trace.tb_next
        if code.co_filename == RUNNER_FILE:
            continue
        entry = '  File "%s", line %d, in %s' % (code.co_filename, number, code.co_name)
        if code.co_filename == GUEST_FILE and number <= len(lines):
            entry += "\n    " + lines[number - 1].strip()
        entries.append(entry)
    return entries


def failure(name, message, reason, entries=()):
    """An error frame within the bounds of one."""
    entries = [clip(entry, MAX_ENTRY_CHARS) for entry in entries]
    if len(entries) > MAX_ENTRIES:
        head, tail = MAX_ENTRIES // 4, MAX_ENTRIES - MAX_ENTRIES // 4 - 1
        left_out = "  ... %d entries left out ..." % (len(entries) - head - tail)
        entries = entries[:head] + [left_out] + entries[-tail:]
    payload = {
        "error_type": clip(name, MAX_TYPE_CHARS),
        "error_message": clip(message, MAX_MESSAGE_CHARS),
        "stack_trace": entries,
        "reason": reason,
    }
    return b"X", to_json(payload, MAX_FAILURE_BYTES)


def describe(error):
    """What an exception says, if it can say anything."""
    try:
        return str(error)
    except BaseException:
        return "<exception str() failed>"


def clip(text, limit):
    """The text, cut visibly where it is longer than `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def complain(text):
    """One line for the guest's stderr."""
    quietly(lambda: sys.stderr.write(text + "\n"))


# ---- The end


def exit_status(stop):
    """The exit status that Python derives from a SystemExit; a message goes to stderr."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    complain(describe(stop))
    return 1


def join_threads():
    """Waits for the guest's threads, as the interpreter does before its exit handlers run."""
    threading = sys.modules.get("threading")
    if threading:
        threading._shutdown()


def run_exit_handlers():
    """Runs what the guest registered with atexit; the interpreter will find nothing left to run."""
    import atexit

    atexit._run_exitfuncs()


def save_figures(workspace):
    """Saves the figures that matplotlib still has open, as a person would have looked at them at the end."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    numbers = pyplot.get_fignums()
    for number in numbers[:MAX_FIGURES]:
        try:
            pyplot.figure(number).savefig(unused_name(workspace + "/figure-%d" % number), format="png")
        except Exception as error:
            complain("note: figure %d could not be saved: %s" % (number, describe(error)))
    if len(numbers) > MAX_FIGURES:
        complain("note: %d more figures were not saved" % (len(numbers) - MAX_FIGURES))


def unused_name(stem):
    """A name for a picture that nothing has yet, so that the pictures of earlier runs stay."""
    name, attempt = stem + ".png", 1
    while os.path.lexists(name):
        attempt += 1
        name = "%s-%d.png" % (stem, attempt)
    return name


def flush_files(namespace):
    """Flushes the standard streams, and the files that the guest's globals hold: os._exit() would lose their buffers."""
    streams = [value for value in namespace.values() if isinstance(value, _IOBase)]
    for stream in [*streams, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]:
        quietly(lambda: stream.flush())


def quietly(action):
    """Does something that may fail for reasons of the guest's making, which nobody needs to hear about."""
    try:
        action()
    except BaseException:
        pass
