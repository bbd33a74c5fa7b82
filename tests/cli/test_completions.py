"""The completions, in the real shells if installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, clean_environment
from support.terminal import Terminal

FOLDER = ROOT / "completions"
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
CONFIGURATION = 'to = "build-logs"\n[profile.nightly]\nto = "arn:aws:sqs:eu-west-1:123456789012:night"\n'

# the typed text, and the line after TAB
CASES = {
    "a verb": ("sqstee flu", "sqstee flush "),
    "an option": ("sqstee --compr", "sqstee --compress"),
    "an option's word": ("sqstee --compress gz", "sqstee --compress gzip "),
    "an option of a verb": ("sqstee tail --cons", "sqstee tail --consume "),
    "a word of a verb's option": ("sqstee tail --output js", "sqstee tail --output json "),
    "a configured queue": ("sqstee --to bui", "sqstee --to build-logs "),
    "a queue after =": ("sqstee --to=bui", "sqstee --to=build-logs "),
    "a queue of a profile": ("sqstee tail arn", "sqstee tail arn:aws:sqs:eu-west-1:123456789012:night "),
    "a queue of the environment": ("sqstee --to my", "sqstee --to my-own "),
    "a profile": ("sqstee --profile n", "sqstee --profile nightly "),
    "a page": ("sqstee man reci", "sqstee man recipes "),
    "a verb after help": ("sqstee help dra", "sqstee help drain "),
    "a shell": ("sqstee completion fi", "sqstee completion fish "),
    "the command": ("sqstee --job x -- zyxc", "sqstee --job x -- zyxcommand "),
    "the command's own words": ("sqstee -- zyxcommand al", "sqstee -- zyxcommand alpha "),
    "its words behind its own --": ("sqstee -- zyxcommand -- al", "sqstee -- zyxcommand -- alpha "),
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home with a configuration file, and a command to wrap."""
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "sqstee.toml").write_text(CONFIGURATION)
    command = tmp_path / "bin" / "zyxcommand"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    sqstee = tmp_path / "bin" / "sqstee"
    sqstee.symlink_to("/bin/false")  # TAB must not need it
    path = f"{command.parent}:{os.environ['PATH']}"
    found = clean_environment() | {"HOME": str(tmp_path), "PATH": path, "TERM": "dumb", "SQSTEE_TO": "my-own"}
    found.pop("XDG_CONFIG_HOME", None)
    return found


def completed(shell: Terminal, typed: str) -> str:
    """The line after TAB, which becomes the argument of an echo."""
    shell.type(typed.encode() + b"\t\x01echo 'LINE:\x05'\n")
    shell.expect(b"\nLINE:")
    return shell.expect(b"\n").decode().rstrip("\r\n")


@pytest.fixture
def bash(environ: dict[str, str]) -> Iterator[Terminal]:
    """An interactive bash with our completions, and with bash-completion if installed."""
    with Terminal(["bash", "--norc", "--noprofile", "-i"], environ, (50, 200)) as shell:
        if BASH_COMPLETION.exists():
            shell.type(f"source {BASH_COMPLETION}\n".encode())
        shell.type(f"source {FOLDER}/sqstee.bash; complete -W 'alpha beta' zyxcommand; echo READ''Y\n".encode())
        shell.expect(b"\nREADY")
        yield shell


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize("case", CASES)
def test_bash(bash: Terminal, case: str) -> None:
    """TAB in an interactive bash."""
    if case.startswith(("the command's", "its")) and not BASH_COMPLETION.exists():
        pytest.skip("bash-completion, which knows the wrapped command's own words, is not installed")
    typed, expected = CASES[case]
    assert completed(bash, typed).rstrip() == expected.rstrip()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_tab_executes_no_part_of_a_configured_name(environ: dict[str, str], tmp_path: Path) -> None:
    """Regression: compgen -W expanded the words, and so executed a $(…) in a variable or a file at TAB."""
    made = tmp_path / "made"
    (tmp_path / ".config" / "sqstee.toml").write_text(
        f'to = "$(touch {made})"\n[profile.b]\nto = "local:/my logs.db"\n'
    )
    script = f"""source {FOLDER}/sqstee.bash
        COMP_LINE='sqstee tail ' COMP_POINT=12 COMP_WORDS=(sqstee tail '') COMP_CWORD=2
        _sqstee; printf '%s\\n' "${{COMPREPLY[@]}}" """
    environ["SQSTEE_TO"] = f"`touch {made}`"
    told = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, timeout=30)
    assert told.stdout.splitlines() == ["local", rf"\`touch\ {made}\`", rf"\$\(touch\ {made}\)", r"local:/my\ logs.db"]
    assert not made.exists()


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.parametrize("case", CASES)
def test_zsh(environ: dict[str, str], case: str) -> None:
    """TAB in an interactive zsh."""
    typed, expected = CASES[case]
    with Terminal(["zsh", "-f", "-i"], environ, (50, 200)) as shell:
        shell.type(f"fpath=({FOLDER} $fpath); autoload -Uz compinit; compinit -u -D\n".encode())
        shell.type(b"bindkey -e; unsetopt zle_bracketed_paste; unset zle_bracketed_paste\n")
        shell.type(b"_zyx() { _arguments '*: :(alpha beta)' }; compdef _zyx zyxcommand; echo READ''Y\n")
        shell.expect(b"\nREADY")
        assert completed(shell, typed).rstrip() == expected.rstrip()


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize("case", CASES)
def test_fish(environ: dict[str, str], case: str) -> None:
    """The words that fish offers for a line at TAB."""
    typed, expected = CASES[case]
    code = f"source {FOLDER}/sqstee.fish; complete -c zyxcommand -f -a 'alpha beta'; complete -C '{typed}'"
    found = subprocess.run(["fish", "-N", "-c", code], env=environ, capture_output=True, text=True, check=True)
    offered = [line.partition("\t")[0] for line in found.stdout.splitlines()]
    assert expected.split()[-1] in offered, found
    assert len(offered) == 1 or case == "an option"


def test_no_completion_starts_python_or_uses_the_network() -> None:
    """Completions are static: TAB runs no program of ours."""
    for path in FOLDER.iterdir():
        text = path.read_text().replace(" measure python recipes ", " ")  # pages of the manual
        code = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        assert not any("python" in line or "$(sqstee" in line or "curl" in line for line in code)
