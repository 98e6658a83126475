"""How much good work gets done when more is asked than can be done."""
