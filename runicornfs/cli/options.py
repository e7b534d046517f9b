"""The options that many commands have."""

from __future__ import annotations

import click

api_option = click.option("--api", "api", metavar="URL", help="The control API of the daemon to talk to.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
type_option = click.option("--type", "kind", help="The type, where a name stands under several.")
