"""What a study found: tables, conclusions, figures, pages."""
