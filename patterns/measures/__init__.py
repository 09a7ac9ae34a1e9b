"""What a head does, without any label: where its attention goes, beside chance, and how much it writes."""
