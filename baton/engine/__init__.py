"""The engine: one for both roles. Never loads grpc or protobuf."""
