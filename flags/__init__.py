"""The command line: a flag for each option of the configuration. Nothing here imports TensorFlow."""
from flags.defaults import config_from_flags, given_options
from flags.definitions import define_options, define_path, define_paths
from flags.helptext import command_help, terminal_width
from flags.parsing import SHORTHANDS, parse

__all__ = ["SHORTHANDS", "command_help", "config_from_flags", "define_options", "define_path", "define_paths",
           "given_options", "parse", "terminal_width"]
