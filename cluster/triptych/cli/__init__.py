"""The `triptych` command. Modules import no torch, Ray, transformers or gRPC until a command needs them."""
