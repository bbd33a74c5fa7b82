# The __main__ of sqstee.pyz: unpacks what is in it, once for each node, user and Python, and goes on there. Nothing is
# imported that a wrapped command would wait for.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

DIGEST = "@DIGEST@"
FRESH_SECONDS = 7 * 24 * 3600  # cleaners of /var/tmp take files that are some weeks old, and not all of them


def place() -> str:
    """The folder that holds the modules, unpacked where it is not there yet."""
    root = f"/var/tmp/sqstee-app-{os.getuid()}"
    try:
        os.mkdir(root, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(root)
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        raise OSError(f"{root} is not a folder of this user's alone")
    folder = f"{root}/{DIGEST}-{sys.implementation.cache_tag}"
    if not fresh(folder):
        unpack(folder)
    return folder


def fresh(folder: str) -> bool:
    """Whether a folder is there, whole, and not so old that a cleaner may have been at it."""
    import time

    try:
        return time.time() - os.path.getmtime(f"{folder}/complete") < FRESH_SECONDS
    except OSError:
        return False


def unpack(folder: str) -> None:
    """Unpack beside the folder, compile, and put it in its place; several may do so at once."""
    import compileall
    import io
    import shutil
    import zipfile

    mine, old = f"{folder}.{os.getpid()}", f"{folder}.{os.getpid()}.old"
    pyz = os.path.dirname(os.path.abspath(__file__))
    with zipfile.ZipFile(pyz) as outer, zipfile.ZipFile(io.BytesIO(outer.read("payload.zip"))) as payload:
        payload.extractall(mine)
    compileall.compile_dir(mine, quiet=2, stripdir=mine, prependdir=folder)
    open(f"{mine}/complete", "w").close()
    if not fresh(folder):
        try:
            os.rename(folder, old)
        except FileNotFoundError:
            pass
    try:
        os.rename(mine, folder)
    except OSError:  # another process was first
        shutil.rmtree(mine, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def start() -> int:
    """Go on as the launcher does; where nothing can be unpacked the command runs without us."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if sys.version_info < (3, 11):  # noqa: UP036  # here nobody has checked it yet
        print("sqstee: it needs Python 3.11 or later", file=sys.stderr)
        return unwrapped(125)
    try:
        sys.path[0] = place()
    except Exception as error:
        print(f"sqstee: it cannot be unpacked: {error}", file=sys.stderr)
        return unwrapped(125)
    from sqstee.__main__ import main

    return main()


def unwrapped(status: int) -> int:
    """Run the command that is to be wrapped, if there is one."""
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    if words:
        try:
            os.execvp(words[0], words)
        except OSError as error:
            print(f"sqstee: {words[0]}: {error.strerror}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
    return status


sys.exit(start())
