"""Moving blocks between processes: a transport moves bytes and says what it measured."""
