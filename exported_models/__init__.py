"""Weights that ship with the code, one folder a model; `shared.models` finds and verifies them."""
