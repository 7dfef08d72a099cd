"""All SQL, a module per table group: one function, one statement. The caller opens the transaction."""
