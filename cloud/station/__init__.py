"""The review station: a web page and a JSON API where people look again and give their verdict."""
