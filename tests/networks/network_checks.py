"""Checks that several test files of networks make."""

import torch


def assert_compiles_and_exports(network, x):
    """One graph for torch.compile, one for torch.export, and the eager output from both."""
    with torch.no_grad():
        expected = network(x)
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(network, (x,)).module()
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
