"""What a Runicorn store is: its paths, its layout, its records. Pure: no input or output, nothing kept."""
