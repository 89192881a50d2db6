//! Values and descriptors as one message.
