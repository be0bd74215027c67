"""What one architecture's tiny configuration overrides.

Names are fields of the configuration class, nested configurations are nested mappings. A name with a leading
`+` is an attribute the modelling code reads although the class declares no such field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

HYBRID: Row = {"layer_types": ["linear_attention", "full_attention"]}
