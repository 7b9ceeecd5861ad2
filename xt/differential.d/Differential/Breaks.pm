package Differential::Breaks;

# Faults to put into an implementation, for `xt/differential --self-test`: each is a mistake that ours might make, and
# has to be found.

use strict;
use warnings;

use AnyEvent;
use AnyEvent::Handle;
use AnyEvent::WebSocket::Connection;
use AnyEvent::WebSocket::Message;
use Encode ();

use Peer ();

my $CONNECTION = 'AnyEvent::WebSocket::Connection';
my $MESSAGE    = 'AnyEvent::WebSocket::Message';

# Puts code in the place of a method. It gets what was there before its arguments.
sub _around {
    my ($class, $method, $code) = @_;
    no strict 'refs';
    no warnings 'redefine';
    my $original = $class->can($method) or die "$class has no method $method\n";
    *{"${class}::$method"} = sub { $code->($original, @_) };
    return;
}

# Other arguments than the program's. The attributes do not show it.
sub _with_arguments {
    my ($change) = @_;
    return sub {
        _around($CONNECTION, new => sub {
            my ($original, $class, @arguments) = @_;
            my %arguments = @arguments == 1 ? %{ $arguments[0] } : @arguments;
            my %changed   = %arguments;
            $change->(\%changed);
            my $self = $class->$original(%changed);
            for my $name (qw(masked max_payload_size max_fragments)) {
                delete $self->{$name};
                $self->{$name} = $arguments{$name} if exists $arguments{$name};
            }
            $self->{masked} //= 0;
            return $self;
        });
    };
}

# Another `on` for an event.
sub _with_on {
    my ($wanted, $code) = @_;
    return sub {
        _around($CONNECTION, on => sub {
            my ($original, $self, $event, $callback) = @_;
            @_ = ($event eq $wanted ? $original : (), $self, $event, $callback);
            goto &{ $event eq $wanted ? $code : $original };
        });
    };
}

# Another callback in the place of one for an event.
sub _with_callbacks {
    my ($wanted, $change) = @_;
    return _with_on($wanted => sub {
        my ($original, $self, $event, $callback) = @_;
        return $self->$original($event, $change->($callback));
    });
}

# What the handle is given to write passes through this, frame by frame.
our $filter;
{
    package Differential::Breaks::Handle;
    our @ISA = ('AnyEvent::Handle');

    sub push_write {
        my ($self, $bytes) = @_;
        my $rest   = $bytes;
        my @frames = Peer::parse_frames($rest);
        my @kept   = $Differential::Breaks::filter->($self, @frames);
        $self->SUPER::push_write(join '', map { Peer::frame(%$_, mask => $_->{key}) } @kept) if @kept;
    }
}

sub _with_frames {
    my ($code) = @_;
    return sub {
        $filter = $code;
        _with_arguments(sub {
            my $handle = $_[0]{handle};
            bless $handle, 'Differential::Breaks::Handle' if ref $handle eq 'AnyEvent::Handle';
        })->();
    };
}

my %BREAK = (
    'pongs are lost' => _with_frames(sub {
        my ($handle, @frames) = @_;
        return grep { $_->{opcode} != 10 } @frames;
    }),
    'close is lost' => _with_frames(sub {
        my ($handle, @frames) = @_;
        return grep { $_->{opcode} != 8 } @frames;
    }),
    'frames change places' => _with_frames(sub {
        my ($handle, @frames) = @_;
        push @frames, delete $handle->{late} || () if $frames[0]{opcode} != 10;
        return @frames if @frames > 1 || $frames[0]{opcode} != 10;
        $handle->{late} = $frames[0];
        return;
    }),
    'long frames are cut' => _with_frames(sub {
        my ($handle, @frames) = @_;
        length $_->{payload} > 65_536 and substr $_->{payload}, 65_536, length $_->{payload}, '' for @frames;
        return @frames;
    }),
    'frames are not masked'        => _with_arguments(sub { $_[0]{masked} = 0 }),
    'one byte less is allowed'     => _with_arguments(sub { $_[0]{max_payload_size}-- if $_[0]{max_payload_size} }),
    'one byte more is allowed'     => _with_arguments(sub { $_[0]{max_payload_size}++ if $_[0]{max_payload_size} }),
    'one fragment less is allowed' => _with_arguments(sub {
        my ($arguments) = @_;
        $arguments->{max_fragments} = ($arguments->{max_fragments} // 128) - 1 || 1;
    }),
    'one fragment more is allowed' => _with_arguments(sub {
        my ($arguments) = @_;
        $arguments->{max_fragments} = ($arguments->{max_fragments} // 128) + 1;
    }),
    'unsent data is dropped' => _with_arguments(sub { $_[0]{handle}{linger} = 0 }),
    'octets are encoded'     => sub {
        _around($CONNECTION, send => sub {
            my ($original, $self, $message) = @_;
            utf8::upgrade($message) if defined $message && !ref $message;
            return $self->$original($message);
        });
    },
    'send returns something else' => sub {
        _around($CONNECTION, send => sub { my ($original, @arguments) = @_; $original->(@arguments); return 1 });
    },
    'close forgets the reason' => sub {
        _around($CONNECTION, close => sub { my ($original, $self, $code) = @_; return $self->$original($code) });
    },
    'reasons are not decoded' => sub {
        _around($CONNECTION, close_reason => sub {
            my ($original, @arguments) = @_;
            my $reason = $original->(@arguments);
            return defined $reason ? Encode::encode('UTF-8', $reason) : undef;
        });
    },
    'bodies are not decoded'    => sub { _around($MESSAGE, decoded_body => sub { $_[1]->body }) },
    'binary counts as text'     => sub { _around($MESSAGE, is_text => sub { 1 }) },
    'cancelling does nothing' => _with_on(each_message => sub {
        my ($original, @arguments) = @_;
        $original->(@arguments);
        return sub { };
    }),
    'cancelling removes only one of several' => _with_callbacks(each_message => sub {
        my ($callback) = @_;
        return sub { $callback->(@_) };
    }),
    'cancelling counts at once' => _with_on(each_message => sub {
        my ($original, $self, $event, $callback) = @_;
        my $is_cancelled;
        my $cancel = $self->$original($event, sub { $callback->(@_) if !$is_cancelled });
        return sub { $is_cancelled = 1; $cancel->() };
    }),
    'next_message in a callback gets this message' => sub {
        my $message;
        _with_on(next_message => sub {
            my ($original, $self, $event, $callback) = @_;
            return $self->$original($event, $callback) if !$message;
            $callback->($self, $message);
            return sub { };
        })->();
        _with_callbacks(each_message => sub {
            my ($callback) = @_;
            return sub { (my $outer, $message) = ($message, $_[1]); $callback->(@_); $message = $outer };
        })->();
    },
    'bodies have the flag of characters' => _with_callbacks(each_message => sub {
        my ($callback) = @_;
        return sub { utf8::upgrade($_[1]{body}); $callback->(@_) };
    }),
    'an empty Close has a reason' => sub {
        _around($CONNECTION, close_reason => sub {
            my ($original, $self, @value) = @_;
            return @value ? $self->$original(@value) : $self->$original // '';
        });
    },
    'next comes after each' => _with_on(next_message => sub {
        my ($original, $self, $event, $callback) = @_;
        my $cancel;
        $cancel = $self->$original(each_message => sub { $cancel->(); $callback->(@_[0, 1]) });
        return $cancel;
    }),
    'empty messages are lost'  => _with_callbacks(each_message => sub {
        my ($callback) = @_;
        return sub { $callback->(@_) if length $_[1]->body };
    }),
    'a body of 0 is lost' => sub {
        _around($CONNECTION, send => sub {
            my ($original, $self, $message) = @_;
            return $self->$original($message || '');
        });
    },
    'callbacks are put off' => _with_callbacks(each_message => sub {
        my ($callback) = @_;
        return sub {
            my @arguments = @_;
            AE::postpone { $callback->(@arguments) };
        };
    }),
    'finish gets a text' => _with_callbacks(finish => sub {
        my ($callback) = @_;
        return sub { $callback->($_[0], $_[1] // '') };
    }),
    'finish comes twice' => _with_callbacks(finish => sub {
        my ($callback) = @_;
        return sub { $callback->(@_) for 1, 2 };
    }),
    'exceptions lose their type' => _with_callbacks(parse_error => sub {
        my ($callback) = @_;
        return sub { $callback->($_[0], "$_[1]") };
    }),
    'connections are not freed' => sub {
        my @kept;
        _around($CONNECTION, new => sub {
            my ($original, @arguments) = @_;
            my $self = $original->(@arguments);
            push @kept, $self;
            return $self;
        });
    },
);

sub names { return sort keys %BREAK }

sub install {
    my ($name) = @_;
    my $break = $BREAK{$name} or die "there is no break '$name'\n";
    $break->();
    return;
}

1;
