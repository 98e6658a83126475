"""The processes of Baton, one package each; no service imports another."""
