//! The identity that flexkeep has on Azure, and its tokens.
