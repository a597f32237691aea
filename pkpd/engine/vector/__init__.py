"""The CPU back end outside XLA: the step's jaxpr as vector code, compiled by LLVM, called from inside JAX programs."""
