"""The zip archive around a pickle: its records, checked before anything reads them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence

MAX_RECORDS = 2**16
"""Records of a zip archive."""

MAX_DIRECTORY_BYTES = 2**24
"""Length of the central directory of a zip archive: 256 bytes for each record."""


def records_of(data: bytes) -> Mapping[str, memoryview]:
    """Return the records of an archive that ``torch.save`` wrote, without its folder.

    Raises:
        ValueError: If it is compressed, is TorchScript, is damaged, exceeds a limit, or declares
            more data than it holds.
    """
    check_directory(data)
    try:
        infos = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError) as error:
        raise ValueError(f"a damaged zip archive: {error}") from error
    names = {info.filename.partition("/")[2] for info in infos}
    if "constants.pkl" in names:
        raise ValueError("a TorchScript archive; save the network's state dict")
    if "data.pkl" not in names:
        raise ValueError("an archive without data.pkl; if checkpoints are inside, unpack it")
    if len(names) != len(infos):
        raise ValueError("two of its records have the same name")
    if sum(info.file_size for info in infos) > len(data):
        raise ValueError(f"its {len(infos)} records declare more bytes than the file has")
    records = {info.filename.partition("/")[2]: _record(data, info) for info in infos}
    _check_checksums(infos, list(records.values()))
    return records


def check_directory(data: bytes) -> None:
    """Check the length of a zip archive's central directory before anything reads it.

    Its length is stored in the end record, which ``zipfile`` and PyTorch use as well (APPNOTE.TXT
    of the ZIP format, sections 4.3.14 to 4.3.16).

    Raises:
        ValueError: If the directory is too long, or if there is no valid end record.
    """
    at = len(data) - 22
    if data[at : at + 4] != b"PK\5\6" or data[-2:] != b"\0\0":  # the archive has a comment
        at = data.rfind(b"PK\5\6", max(0, len(data) - 22 - 2**16))
    if at < 0 or len(data) - at < 22:
        raise ValueError("an archive without an end record")
    records, size = struct.unpack("<10xHL6x", data[at : at + 22])
    end = at
    if data[max(0, at - 20) : at][:4] == b"PK\6\7":  # ZIP64
        end = at - 76
        (stated_end,) = struct.unpack("<8xQ4x", data[at - 20 : at])
        if end < 0 or stated_end != end or data[end : end + 4] != b"PK\6\6":
            raise ValueError("an archive with two end records that do not agree")
        records, size = struct.unpack("<32xQQ8x", data[end : end + 56])
    entries = data.count(b"PK\1\2", max(0, end - size), end)
    if max(records, entries) > MAX_RECORDS or size > MAX_DIRECTORY_BYTES:
        raise ValueError(
            f"an archive of {max(records, entries)} records with a directory of {size} bytes; at "
            f"most {MAX_RECORDS} records and {MAX_DIRECTORY_BYTES} bytes are supported"
        )


def _record(data: bytes, info: zipfile.ZipInfo) -> memoryview:
    """Return the bytes of a record, located by its local header as in PyTorch.

    Raises:
        ValueError: If the record is compressed, encrypted, misplaced or truncated.
    """
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError("its records are compressed or encrypted, which PyTorch never does")
    header = data[info.header_offset : info.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise ValueError(f"record {info.filename[:80]} is not where the archive says")
    begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    record = memoryview(data)[begin : begin + info.file_size]
    if len(record) != info.file_size or info.compress_size != info.file_size:
        raise ValueError(f"record {info.filename[:80]} is longer than what is there")
    return record


def _check_checksums(infos: Sequence[zipfile.ZipInfo], records: Sequence[memoryview]) -> None:
    """Raise ValueError if a checksum does not match.

    If none matches, the file was written without checksums, which is allowed.
    """
    wrong = [i.filename for i, r in zip(infos, records, strict=True) if zlib.crc32(r) != i.CRC]
    if wrong and len(wrong) < len(infos):
        raise ValueError(f"record {wrong[0][:80]} is damaged: its checksum does not match")
