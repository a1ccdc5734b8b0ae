"""A scripted worker for tests and benchmarks, in the shape of vLLM 0.32."""
