# The __main__ of sqstee.pyz: unpacks its modules once per node, user and Python, then runs them from there. It imports
# nothing slow, because the wrapped command waits for it.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

DIGEST = "@DIGEST@"
FRESH_SECONDS = 7 * 24 * 3600  # cleaners of /var/tmp remove files of some weeks, one by one


def place() -> str:
    """The folder of the unpacked modules; unpacks them if it does not exist yet."""
    root = f"/var/tmp/sqstee-app-{os.getuid()}"
    try:
        os.mkdir(root, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(root)
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        raise OSError(f"{root} is not a private folder of this user")
    folder = f"{root}/{DIGEST}-{sys.implementation.cache_tag}"
    if not fresh(folder):
        unpack(folder)
    return folder


def fresh(folder: str) -> bool:
    """Whether a folder is complete, and too young for a cleaner to have removed files in it."""
    import time

    try:
        return time.time() - os.path.getmtime(f"{folder}/complete") < FRESH_SECONDS
    except OSError:
        return False


def unpack(folder: str) -> None:
    """Unpack and compile next to the folder, then rename; several processes may do so at once."""
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
    """Start as the launcher does; if unpacking fails, run the command without sqstee."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if sys.version_info < (3, 11):  # noqa: UP036  # pip checks it, an archive does not
        print("sqstee: Python 3.11 or later is needed", file=sys.stderr)
        return unwrapped(125)
    try:
        sys.path[0] = place()
    except Exception as error:
        print(f"sqstee: sqstee.pyz cannot be unpacked: {error}", file=sys.stderr)
        return unwrapped(125)
    from sqstee.__main__ import main

    return main()


def unwrapped(status: int) -> int:
    """Run the command without wrapping it; without a command, return `status`."""
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    if words:
        try:
            os.execvp(words[0], words)
        except OSError as error:
            print(f"sqstee: {words[0]}: {error.strerror}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
    return status


sys.exit(start())
