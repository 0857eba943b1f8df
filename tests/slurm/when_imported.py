"""A change to a module at the moment when it is imported, for the `sitecustomize` of a test."""

import importlib.util
import sys


class WhenImported:
    """On sys.meta_path: finds the module of that name as ever, and hands it to `change` once it is executed."""

    def __init__(self, name, change):
        self.name, self.change = name, change

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = execute_and_change
        return spec
