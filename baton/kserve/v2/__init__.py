"""Generated from protos/baton/kserve/v2; `make protos` makes it anew."""
