"""Tables as Parquet files whose bytes depend on nothing but the rows and the schema.

Compression, row groups and page sizes are fixed. The file still names the pyarrow version that
wrote it, so another version gives other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 65_536


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> None:
    """Write `columns` in the schema's order.

    Raises:
        ValueError: the columns aren't the schema's, differ in length, or hold a value that the
            schema's type can't.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if set(columns) != set(schema.names):
        raise ValueError(
            f"{path.name}: columns {sorted(columns)} given, the schema has {sorted(schema.names)}"
        )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path.name}: columns of different lengths {lengths}")
    try:
        arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema.remove_metadata()),
        path,
        version="2.6",
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=3,
        use_dictionary=True,
        write_statistics=True,
        data_page_version="1.0",
        data_page_size=1 << 20,
    )


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Read all columns, or the named ones in the order named.

    Raises:
        KeyError: a named column isn't there.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        present = file.schema_arrow.names
        absent = [name for name in columns or () if name not in present]
        if absent:
            raise KeyError(f"{path.name} has no column {absent[0]!r}; it has {present}")
        wanted = present if columns is None else list(columns)
        table = file.read(columns=wanted)
        return {name: table.column(name).to_pylist() for name in wanted}
