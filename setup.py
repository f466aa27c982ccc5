"""The description for package indexes: the README without its pictures, whose paths lead nowhere outside of here."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
PICTURE = r"!\[[^]]*\]\((?!https?:)[^)]*\)\n+"

setup(long_description=re.sub(PICTURE, "", README), long_description_content_type="text/markdown")
