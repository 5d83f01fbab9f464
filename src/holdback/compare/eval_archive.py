"""The members of an Inspect `.eval` log, read straight from the archive.

`read_eval_log` validates every field of every event, about 70 µs a sample for summaries alone and
a multiple of that for whole samples. A comparison needs a handful of fields, so they are taken from
the archive's JSON members, whose layout has the version that `header.json` states; a log of any
other version, or one that is still being written, goes through Inspect (see `eval_logs`).
"""

from __future__ import annotations

import json
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

_STORED, _DEFLATED, _ZSTANDARD = 0, 8, 93
_LOCAL_HEADER_BYTES = 30
_DECODER = json.JSONDecoder()
# One of these stands in every sample that was cut off or refused, and in few others. Whether the
# words are a refusal is for `is_refusal` to say: every one that it knows has one of them in it.
_REFUSING = (
    *("can't", "cannot", "can not", "can’t", "can\\u2019t", "won't", "won’t", "won\\u2019t"),
    *("will not", "unable", "not able", "decline", "refuse"),
    *("not comfortable", "not allowed", "not permitted"),
    *("rather not", "prefer not", "feel comfortable"),
)
_SIGNS = (
    *(words.encode() for words in _REFUSING),
    *(f':"{stop}"'.encode() for stop in ("max_tokens", "model_length", "content_filter")),
    *(f': "{stop}"'.encode() for stop in ("max_tokens", "model_length", "content_filter")),
    b'"refusal":true',
    b'"refusal": true',
)


class DamagedMemberError(ValueError):
    """A member that is missing or is not what was written."""


class EvalArchive:
    """An `.eval` file open for reading; a context manager.

    Raises:
        zipfile.BadZipFile: if it is no archive, or was cut off.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bytes.close()
        self._zip.close()
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def read(self, name: str) -> bytes:
        """Read a member; of several of one name the last, as Inspect does.

        Raises:
            DamagedMemberError: if it is not there, or its bytes are not those of its checksum.
        """
        try:
            info = self._zip.getinfo(name)
        except KeyError as error:
            raise DamagedMemberError(f"member {name!r} is missing") from error
        if info.compress_type not in self._inflaters:
            return self._read_slowly(info)
        try:
            data = self._inflaters[info.compress_type](self._raw(info), info.file_size)
        except self._damages as error:
            raise DamagedMemberError(f"member {name!r}: {error}") from error
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            # Zstandard in several frames, or damage: the library tells which.
            return self._read_slowly(info)
        return data

    def read_json(self, name: str) -> Any:
        """Read a member and parse it.

        Raises:
            DamagedMemberError: as `read`, or if it is no JSON.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise DamagedMemberError(f"member {name!r}: {error}") from error

    def read_output(self, sample_id: Any, epoch: int) -> dict[str, Any]:
        """Read what the model put out on one sample, parsing no more of it than that.

        Empty where nothing in the sample says that it was cut off or may be a refusal.

        Raises:
            DamagedMemberError: as `read_json`.
        """
        data = self.read(name_sample(sample_id, epoch))
        if not any(sign in data for sign in _SIGNS):
            return {}
        text = data.decode("utf-8", "surrogatepass")
        start = text.find('"output":')
        while start >= 0:
            # The key could also be one of a tool call's arguments, in the messages before it.
            value_at = start + len('"output":')
            while text[value_at : value_at + 1].isspace():
                value_at += 1
            try:
                found, _ = _DECODER.raw_decode(text, value_at)
            except ValueError:
                break
            if isinstance(found, dict) and "choices" in found:
                return found
            start = text.find('"output":', start + 1)
        return dict(self.read_json(name_sample(sample_id, epoch)).get("output") or {})

    @cached_property
    def _inflaters(self) -> dict[int, Callable[[bytes, int], bytes]]:
        # `ZipFile.read` takes 36 µs a member, most of it in Python: of 40,000 wrong answers 1.4 s.
        inflaters: dict[int, Callable[[bytes, int], bytes]] = {
            _STORED: lambda data, _: data,
            _DEFLATED: lambda data, size: zlib.decompress(data, -zlib.MAX_WBITS, size),
        }
        if (zstandard := _find_zstandard()) is not None:
            unpack = zstandard.ZstdDecompressor()
            inflaters[_ZSTANDARD] = lambda data, size: unpack.decompress(data, max_output_size=size)
        return inflaters

    @cached_property
    def _damages(self) -> tuple[type[Exception], ...]:
        zstandard = _find_zstandard()
        known = (zipfile.BadZipFile, zlib.error, EOFError, OSError)
        return known if zstandard is None else (*known, zstandard.ZstdError)

    def _raw(self, info: zipfile.ZipInfo) -> bytes:
        start = info.header_offset
        header = self._bytes[start : start + _LOCAL_HEADER_BYTES]
        if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
            raise DamagedMemberError(f"member {info.filename!r} is not where it should be")
        name, extra = struct.unpack("<HH", header[26:30])
        start += _LOCAL_HEADER_BYTES + name + extra
        return self._bytes[start : start + info.compress_size]

    def _read_slowly(self, info: zipfile.ZipInfo) -> bytes:
        # Before Python 3.14 this import makes `zipfile` read Zstandard.
        with suppress(ImportError):
            import_module("zipfile_zstd")
        try:
            return self._zip.read(info)
        except NotImplementedError as error:
            raise DamagedMemberError(
                f"member {info.filename!r} is compressed with method {info.compress_type}, which"
                " needs: pip install 'holdback[inspect]'"
            ) from error
        except self._damages as error:
            raise DamagedMemberError(f"member {info.filename!r}: {error}") from error


@cache
def _find_zstandard() -> ModuleType | None:
    # Comes with Inspect.
    return import_module("zstandard") if find_spec("zstandard") else None


def name_sample(sample_id: Any, epoch: int) -> str:
    """Name of the member that holds one sample."""
    return f"samples/{sample_id}_epoch_{epoch}.json"
