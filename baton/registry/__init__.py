"""Who is there, what they hold and how busy they are: told through Redis, off requests' paths."""
