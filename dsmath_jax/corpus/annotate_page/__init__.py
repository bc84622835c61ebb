"""The local web page on which a person goes through math-related domains and judges their URL prefixes."""
