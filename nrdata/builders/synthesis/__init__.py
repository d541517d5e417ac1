"""Sound from nothing and changed sound: voices, places, rooms, chains of filters."""
