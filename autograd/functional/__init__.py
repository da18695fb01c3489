"""The functions of tallygrad.autograd, with torch.nn.functional's names and argument order."""
