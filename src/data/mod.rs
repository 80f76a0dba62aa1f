//! Data sets: what a folder or file holds, as bytes ready for the device.
