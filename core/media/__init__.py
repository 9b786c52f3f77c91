"""What every domain that shows something needs: reading pictures, sheets of them, films, and files written whole."""
