"""One store in use, remote or local: everything a face can ask for is a method here."""
