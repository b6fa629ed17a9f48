"""Pure tensor functions without state: everything here is differentiable unless its docstring says otherwise."""
