"""The model: plain values that all processes speak of. No I/O, no clock."""
