// Everything that can go wrong with a ring, as types. Every message names the mend. The names are those of
// bridge/ring/errors.py with "Exception" added.

using System;

namespace Frameloom
{
    /// <summary>Any failure of a ring.</summary>
    public class RingException : Exception
    {
        public RingException(string message) : base(message) { }
    }

    /// <summary>The channel name cannot be part of a file name.</summary>
    public sealed class InvalidChannelException : RingException
    {
        public InvalidChannelException(string message) : base(message) { }
    }

    /// <summary>What lies under the ring's name is something else.</summary>
    public sealed class NotARingException : RingException
    {
        public NotARingException(string message) : base(message) { }
    }

    /// <summary>Writer and reader speak different major versions.</summary>
    public sealed class VersionMismatchException : RingException
    {
        public VersionMismatchException(string message) : base(message) { }
    }

    /// <summary>The segment is shorter than its header says.</summary>
    public sealed class TruncatedSegmentException : RingException
    {
        public TruncatedSegmentException(string message) : base(message) { }
    }

    /// <summary>A header field contradicts the mapped size or the protocol.</summary>
    public sealed class MalformedHeaderException : RingException
    {
        public MalformedHeaderException(string message) : base(message) { }
    }

    /// <summary>A published slot describes planes that cannot be inside it.</summary>
    public sealed class MalformedSlotException : RingException
    {
        public MalformedSlotException(string message) : base(message) { }
    }

    /// <summary>Another live process writes this channel.</summary>
    public sealed class WriterExistsException : RingException
    {
        public WriterExistsException(string message) : base(message) { }
    }

    /// <summary>The channel already has its one lossless reader.</summary>
    public sealed class ReaderExistsException : RingException
    {
        public ReaderExistsException(string message) : base(message) { }
    }

    /// <summary>Shared memory is full, or a size limit of the process forbids the segment.</summary>
    public sealed class NoSpaceException : RingException
    {
        public NoSpaceException(string message) : base(message) { }
    }

    /// <summary>The process has no file descriptor or no memory left for this; nothing was lost, the next call tries again.</summary>
    public sealed class OutOfResourcesException : RingException
    {
        public OutOfResourcesException(string message) : base(message) { }
    }

    /// <summary>The frame is beyond the largest capacity that this writer may grow to.</summary>
    public sealed class FrameTooLargeException : RingException
    {
        public FrameTooLargeException(string message) : base(message) { }
    }

    /// <summary>The planes given cannot be a frame: empty, of unknown type or shape.</summary>
    public sealed class InvalidFrameException : RingException
    {
        public InvalidFrameException(string message) : base(message) { }
    }

    /// <summary>The caller's buffer cannot take the colour plane; the frame is not consumed.</summary>
    public sealed class BufferMismatchException : RingException
    {
        public BufferMismatchException(string message) : base(message) { }
    }

    /// <summary>The lossless reader did not free a slot in time.</summary>
    public sealed class ReaderTimeoutException : RingException
    {
        public ReaderTimeoutException(string message) : base(message) { }
    }

    /// <summary>The object was closed, or another writer has its channel after its files had been removed.</summary>
    public sealed class RingClosedException : RingException
    {
        public RingClosedException(string message) : base(message) { }
    }

    /// <summary>The ring's files belong to somebody else or cannot be opened.</summary>
    public sealed class AccessDeniedException : RingException
    {
        public AccessDeniedException(string message) : base(message) { }
    }
}
