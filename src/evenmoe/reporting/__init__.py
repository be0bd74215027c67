"""Results and loads as tables, plots and one-file HTML reports. Everything is drawn from the saved data."""
