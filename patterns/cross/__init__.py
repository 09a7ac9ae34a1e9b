"""How a decoder reads an encoder: maps of cross-attention, which are shown and measured and not classified."""
