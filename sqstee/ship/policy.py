"""How a run is delivered: from its settings into its META frame, and from there to the process that ships it."""

from __future__ import annotations

from sqstee.destination import parse
from sqstee.errors import SqsteeError
from sqstee.options import MOST_FALLBACKS, RUN_OPTIONS, SENDER_OPTIONS, SHIPPER_OPTIONS
from sqstee.settings import Settings
from sqstee.spool.location import local_queue, with_absolute_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqstee.options import Option
    from sqstee.transports.base import Sender

_DELIVERY_OPTIONS = tuple(option for option in RUN_OPTIONS if option.delivery)


class DeliveryPolicy:
    """Where a run's lines go, and how they are sent there.

    `to` is the destination, a local queue by its absolute path; of `options` only SHIPPER_OPTIONS, SENDER_OPTIONS and
    PACKER_OPTIONS count. Runs with equal keys can share one shipper: each has a packer of its own.
    """

    __slots__ = ("options", "to")

    def __init__(self, to: str, options: Settings) -> None:
        self.to = to
        self.options = options

    @classmethod
    def of(cls, settings: Settings, root: str) -> DeliveryPolicy:
        """The policy of a run with these settings in the spool folder `root`."""
        return cls(with_absolute_path(settings.to or "local", root), settings)

    @classmethod
    def from_meta(cls, meta: Mapping[str, object]) -> DeliveryPolicy:
        """The policy in a META frame. Raises ValueError for a value that the options do not allow."""
        options = Settings()
        try:
            for option in _DELIVERY_OPTIONS:
                if meta.get(option.attribute) not in (None, ""):
                    setattr(options, option.attribute, _from_meta(option, meta[option.attribute]))
            return cls(parse(str(meta["to"])).text, options)
        except KeyError:
            raise ValueError("its META frame names no destination") from None
        except SqsteeError as error:
            raise ValueError(f"its META frame has an unsupported value: {error.message}") from None

    def to_meta(self) -> dict[str, object]:
        """The fields of the META frame that `from_meta` reads; times are read back to the microsecond."""
        values = {option.attribute: getattr(self.options, option.attribute) for option in _DELIVERY_OPTIONS}
        return {"to": self.to, **{name: _to_meta(value) for name, value in values.items() if not _is_unset(value)}}

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for policies whose runs can share a shipper."""
        return (*(getattr(self.options, name) for name in SHIPPER_OPTIONS), *self.sender_key)

    @property
    def sender_key(self) -> tuple[object, ...]:
        """Equal for policies whose shippers can share a sender."""
        return (self.to, *(getattr(self.options, name) for name in SENDER_OPTIONS))

    def refusal_notice(self, reason: str, diverted: bool, root: str, at: str = "") -> str:
        """A notice that `at`, or the destination, refuses all lines for `reason`, which no retry will fix.

        They go to a fallback if `diverted`, otherwise they stay in the spool folder `root`.
        """
        refuser = at or self.to
        fallback = self.options.fallback
        further = fallback[fallback.index(at) + 1 :] if at in fallback else fallback
        where = f"go to {', or else to '.join(further)}" if diverted else f"are kept in {root}"
        why = reason.removeprefix(f"{refuser}: ")
        return f"{refuser} refuses the lines, which {where}; {check_advice(refuser)}: {why}"

    def open_sender(self, root: str) -> Sender:
        """The sender to the destination, not yet connected, for runs in the spool folder `root`."""
        from sqstee.transports.factory import open_sender  # the front makes policies and never sends

        values = {name: getattr(self.options, name) for name in SENDER_OPTIONS}
        return open_sender(parse(self.to), local_queue(root), **values)


def check_advice(destination: str) -> str:
    """The advice to test a destination, as a command that can be pasted into a shell."""
    from shlex import quote  # the front makes policies, and gives this advice at the end of few runs

    return f"`sqstee check {quote(destination)}` looks for the cause"


def _is_unset(value: object) -> bool:
    return value is None or value is False or value in ("", ())


def _to_meta(value: object) -> object:
    """One value of an option that may be repeated stands by itself, so that older versions read it."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _from_meta(option: Option, value: object) -> object:
    if not option.repeat:
        return _checked(option, value)
    values = value if isinstance(value, list) else [value]
    if len(values) > MOST_FALLBACKS:
        raise ValueError(f"its META frame has an unsupported value: {len(values)} values of {option.attribute}")
    return tuple(_checked(option, one) for one in values)


def _checked(option: Option, value: object) -> object:
    """A value from a META frame, converted by the option's own rules: another user may have written the frame."""
    text = f"{value:f}" if isinstance(value, float) else str(value)
    try:
        return option.convert(text)
    except ValueError as error:
        raise ValueError(f"its META frame has an unsupported value: {option.attribute}={text}: {error}") from None
