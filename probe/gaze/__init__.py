"""What people looked at: objects of a picture, their appearance, and files of eye movements."""
