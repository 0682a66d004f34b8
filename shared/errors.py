"""Every error Secondlook raises on purpose: one class per cause.

A caller may catch a branch; a user sees one line, ``str(error)``, and a non-zero exit status.

    SecondlookError
    ├── ConfigError                 a setting or flag is missing, unknown or out of range
    │   └── SecretExposed           a file that holds a secret can be read by others than its owner
    ├── BitstreamError              a .slk layer cannot be decoded
    │   ├── TruncatedBitstream      it ends before a length it announces
    │   ├── NotABitstream           its magic is wrong
    │   ├── UnsupportedBitstream    its version or codec is not known here
    │   ├── MalformedBitstream      a field is out of range or disagrees with another
    │   ├── SymbolMismatch          decoded symbols fail their CRC: drift or corruption
    │   ├── LayerMismatch           the layers handed in do not belong together
    │   ├── PictureTooLarge         it has more pixels than this site takes
    │   └── ReferenceMissing        a delta came without the key it refers to
    │       └── FrameMissing        a frame that another needs is not stored, and which
    ├── ModelError
    │   ├── ModelNotFound           no such model, or none with the hash a bitstream names
    │   └── ModelCorrupt            a model folder fails its manifest
    ├── PacketError                 a wire message cannot be accepted
    │   ├── PacketMalformed         not msgpack, or a field is missing, extra or of a wrong type
    │   ├── PacketTooLarge          it exceeds a limit
    │   ├── UnsupportedPacket       its protocol version or kind is not known here
    │   └── PacketCorrupt           its payload fails its CRC
    ├── SourceError
    │   ├── SourceNotFound          there is no such file, folder or device
    │   ├── SourceUnreadable        it is there, but no frame can be decoded from it
    │   ├── SourceEmpty             it holds no frame at all
    │   ├── SourceStalled           it delivered no frame in the time allowed
    │   ├── SourceTooLarge          a file or picture is above a limit
    │   ├── SourceUnsupported       its format, codec or kind of address is not known here
    │   ├── DecoderUnavailable      the hardware decoder that was asked for is not there
    │   ├── SourceUnauthorized      its server refuses our user or password, or asks for one
    │   ├── SourceHostUnknown       the name of its host has no address
    │   └── SourceUnreachable       its host refuses the connection, or no way leads there
    ├── StorageError
    │   ├── DiskFull                no space left where data must be kept
    │   ├── Unwritable              the data folder cannot be created or written
    │   ├── StoreCorrupt            a database or blob is not what was written
    │   │   ├── BlobMissing         there is no blob under this key
    │   │   └── AuditBroken         the audit trail was changed by something else than this program
    │   ├── StoreBusy               another process held a database for longer than the time allowed
    │   ├── StoreUnavailable        a server that keeps data does not answer
    │   └── UnsupportedStore        its schema version is not known here
    ├── LinkError
    │   ├── PortBusy                an address is already in use
    │   ├── GatewayUnreachable      nothing answered in the time allowed
    │   ├── RequestRefused          the peer answered with an error
    │   ├── KeyRejected             a CURVE key is missing, unreadable or not registered
    │   ├── StationUnreachable      a station does not answer, or not now, or not to the end
    │   ├── StationRefused          a station answered that it will not do what was asked
    │   ├── DeliveryFailed          a receiver of webhooks, or a broker, did not take a message
    │   └── SignatureRefused        a webhook's signature is missing, wrong or old
    ├── QueueError
    │   ├── QueueFull               its byte limit is reached; nothing was stored
    │   └── LeaseLost               the lease ran out and the item is another worker's now
    ├── ReviewError
    │   ├── ReviewNotFound          there is no review with this number
    │   │   └── ReviewGone          there was one, and retention deletes it
    │   ├── ReviewConflict          the review's state, or its lease, forbids this change
    │   │   └── DecidedMeanwhile    somebody else decided the frame while this reviewer looked at it
    │   └── KeyReused               an idempotency key came with another verdict than the first time
    ├── AccountError
    │   ├── AccountNotFound         there is no such user or token
    │   ├── AccountConflict         the name is taken, or a role is above the user's
    │   ├── PasswordTooWeak         a new password is too short or too plain
    │   ├── LoginRefused            name or password is wrong
    │   └── TooManyAttempts         too many wrong passwords for one name from one address, or from one address
    ├── Unforeseen                  foreign code raised what nobody foresaw; the cause is named and chained
    ├── EncoderFailed               a video encoder cannot be opened, or hands out what it should not
    ├── MaskFailed                  what a camera's settings mask cannot be found, so no picture may pass
    ├── DetectorError               detector weights are absent or not of a known layout
    ├── DeviceUnavailable           a GPU that was asked for is not there, or fails
    ├── PrecisionUnavailable        bfloat16 was asked for, and this machine does not have it
    └── DemoError
        ├── ChildEnded              a process of the demo ended by itself
        ├── PipelineStalled         nothing moved on in the time allowed
        └── FramesLost              a captured frame was not detected, or was detected twice
"""

from __future__ import annotations


class SecondlookError(Exception):
    """Base of every deliberate error; ``str()`` is one line that names the cause."""


class ConfigError(SecondlookError, ValueError):
    pass


class SecretExposed(ConfigError):
    pass


class BitstreamError(SecondlookError):
    pass


class TruncatedBitstream(BitstreamError):
    pass


class NotABitstream(BitstreamError):
    pass


class UnsupportedBitstream(BitstreamError):
    pass


class MalformedBitstream(BitstreamError):
    pass


class SymbolMismatch(BitstreamError):
    pass


class LayerMismatch(BitstreamError):
    pass


class PictureTooLarge(BitstreamError):
    pass


class ReferenceMissing(BitstreamError):
    pass


class FrameMissing(ReferenceMissing):
    def __init__(self, text: str, seq: int = -1) -> None:
        super().__init__(text)
        self.seq = seq  # within the boot of the frame that needs it


class ModelError(SecondlookError):
    pass


class ModelNotFound(ModelError):
    pass


class ModelCorrupt(ModelError):
    pass


class PacketError(SecondlookError):
    pass


class PacketMalformed(PacketError):
    pass


class PacketTooLarge(PacketError):
    pass


class UnsupportedPacket(PacketError):
    pass


class PacketCorrupt(PacketError):
    pass


class SourceError(SecondlookError):
    pass


class SourceNotFound(SourceError):
    pass


class SourceUnreadable(SourceError):
    pass


class SourceEmpty(SourceError):
    pass


class SourceStalled(SourceError):
    pass


class SourceTooLarge(SourceError):
    pass


class SourceUnsupported(SourceError):
    pass


class DecoderUnavailable(SourceError):
    pass


class SourceUnauthorized(SourceError):
    pass


class SourceHostUnknown(SourceError):
    pass


class SourceUnreachable(SourceError):
    pass


class StorageError(SecondlookError):
    pass


class DiskFull(StorageError):
    pass


class Unwritable(StorageError):
    pass


class StoreCorrupt(StorageError):
    pass


class BlobMissing(StoreCorrupt):
    pass


class AuditBroken(StoreCorrupt):
    pass


class StoreBusy(StorageError):
    pass


class StoreUnavailable(StorageError):
    pass


class UnsupportedStore(StorageError):
    pass


class LinkError(SecondlookError):
    pass


class PortBusy(LinkError):
    pass


class GatewayUnreachable(LinkError):
    pass


class RequestRefused(LinkError):
    pass


class KeyRejected(LinkError):
    pass


class StationUnreachable(LinkError):
    def __init__(self, why: str, wait_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.wait_seconds = wait_seconds  # it asked not to be asked again sooner


class StationRefused(LinkError):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"the station refused ({status}): {why}")
        self.status = status  # of HTTP


class DeliveryFailed(LinkError):
    pass


class SignatureRefused(LinkError):
    pass


class QueueError(SecondlookError):
    pass


class QueueFull(QueueError):
    pass


class LeaseLost(QueueError):
    pass


class ReviewError(SecondlookError):
    pass


class ReviewNotFound(ReviewError):
    pass


class FrameNotFound(ReviewError):
    pass


class CommentNotFound(ReviewError):
    pass


class ReviewGone(ReviewNotFound):
    pass


class ReviewConflict(ReviewError):
    pass


class DecidedMeanwhile(ReviewConflict):
    """Both verdicts are kept: ``verdict_id`` is the refused reviewer's, ``other_id`` the one that came before."""

    def __init__(self, text: str, *, verdict_id: int, other_id: int) -> None:
        super().__init__(text)
        self.verdict_id = verdict_id
        self.other_id = other_id


class ClaimHeld(ReviewConflict):
    """Another person, ``holder``, has the frame open to judge it."""

    def __init__(self, text: str, *, holder: str) -> None:
        super().__init__(text)
        self.holder = holder


class KeyReused(ReviewError):
    pass


class AccountError(SecondlookError):
    pass


class AccountNotFound(AccountError):
    pass


class AccountConflict(AccountError):
    pass


class PasswordTooWeak(AccountError):
    pass


class LoginRefused(AccountError):
    pass


class TooManyAttempts(AccountError):
    def __init__(self, wait_seconds: int) -> None:
        super().__init__(f"too many attempts; try again in {wait_seconds} s")
        self.wait_seconds = wait_seconds


class Unforeseen(SecondlookError):
    pass


class EncoderFailed(SecondlookError):
    pass


class MaskFailed(SecondlookError):
    pass


class DetectorError(SecondlookError):
    pass


class DeviceUnavailable(SecondlookError):
    pass


class PrecisionUnavailable(SecondlookError):
    pass


class DemoError(SecondlookError):
    pass


class ChildEnded(DemoError):
    pass


class PipelineStalled(DemoError):
    pass


class FramesLost(DemoError):
    pass


# What passes by itself: whoever meets one of these waits and tries again, and has lost nothing.
TRANSIENT_ERRORS = (DiskFull, StoreBusy, StoreUnavailable)
