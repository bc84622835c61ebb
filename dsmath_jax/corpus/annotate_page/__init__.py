"""The local web page on which a person annotates the URL prefixes of math-related domains."""
