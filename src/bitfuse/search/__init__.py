"""Collections: items, their codes and the searches over them."""
