"""Any rectangle of a kept head at any length: what is stored, the pyramid over it, and the view."""
