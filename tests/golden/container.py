"""Writes safetensors files whose bytes depend on nothing but their content."""

import json

import numpy as np

DTYPES = {"float32": "F32", "uint8": "U8", "int32": "I32", "uint32": "U32"}


def save(path, tensors, metadata):
    """`tensors`: name -> NumPy array; `metadata`: name -> str or a JSON value, which is stored as text.

    The order of the tensors and of the metadata is that of their names: the library's own writer takes whatever
    order its hash map has, so that two runs differ.
    """
    text = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in metadata.items()}
    header = {"__metadata__": dict(sorted(text.items()))}
    start, blobs = 0, []
    for name, array in sorted(tensors.items()):
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(blob)],
        }
        start += len(blob)
        blobs.append(blob)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # the format asks for data on an 8-byte boundary
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(blobs))
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")
