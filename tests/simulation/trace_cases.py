"""Small traces of each format, and how a test writes one."""

import gzip
from pathlib import Path

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 23:59:59.9799600,4808,10\r\n"
    "2023-11-17 00:00:00.4799600,3180,8\r\n"
    "2023-11-17 00:00:00.4799600,110,27"
)
MOONCAKE = (
    '{"timestamp": 3000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 3000, "input_length": 7322, "output_length": 1, "hash_ids": [0, 14]}\n'
    '{"timestamp": 6027, "input_length": 900, "output_length": 16, "hash_ids": [0, 1, 2, 3]}'
)
OWN = "arrived_s,prompt_tokens,output_tokens,topic\n0.5,12,3,code\n0.75,40,1,news\n2.5,7,90,code\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path
